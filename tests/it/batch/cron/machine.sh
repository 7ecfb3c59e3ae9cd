#!/usr/bin/env bash
# Makes a machine of the mount and process namespaces that it runs in: with Debian's cron, with `platform` installed as
# deploy/cron/crontab wants it, and with none of the host's own jobs. Nothing of it is seen outside. Ends as cron.
#   machine.sh FOLDER CRON PROGRAM REPOSITORY
# FOLDER has etc/ (what is written into /etc), tmp/, mail/ and jobs (the crontab that runs). CRON is the unpacked package.
set -euo pipefail
folder=$1 cron=$2 program=$3 repository=$4

# /etc is a copy of the host's, without what only root may read there when that is not who runs this.
mkdir "$folder/own"
mount -t tmpfs tmpfs "$folder/own"
cp --recursive /etc "$folder/own/etc" 2> /dev/null || true
mount --bind "$folder/own/etc" /etc
for place in /run /var/spool /usr/local/bin /usr/sbin; do
  mount -t tmpfs tmpfs "$place"
done
rm --recursive --force /etc/cron.d /etc/crontab
mkdir --parents /etc/cron.d /var/spool/cron/crontabs
chmod 1730 /var/spool/cron/crontabs
[[ -r /etc/shadow ]] || echo 'root:*:19000:0:99999:7:::' > /etc/shadow
cp "$cron/etc/pam.d/cron" /etc/pam.d/cron
cp --recursive "$folder/etc/." /etc
# At any hour the machine's own date is another one than UTC's.
zone=Etc/GMT-14
((10#$(date --utc +%H) >= 10)) || zone=Etc/GMT+12
cp --remove-destination "/usr/share/zoneinfo/$zone" /etc/localtime

# What the first lines of the crontab tell to install.
install --mode 755 "$repository/deploy/cron/platform-cron" /usr/local/bin/platform-cron
touch /usr/local/bin/platform
mount --bind "$program" /usr/local/bin/platform

# Mail is put into files, whole ones.
cat > /usr/sbin/sendmail <<MAIL
#!/bin/sh
new=\$(mktemp "$folder/arriving.XXXXXX")
cat > "\$new"
mv "\$new" "$folder/mail/"
MAIL
chmod 755 /usr/sbin/sendmail

crontab=$cron/usr/bin/crontab
"$crontab" "$repository/deploy/cron/crontab"
"$crontab" -l > "$folder/accepted"
# cron does read what it takes: an hour that there is not is refused.
if sed 's/^15 0 /15 24 /' "$repository/deploy/cron/crontab" | "$crontab" - 2> "$folder/refused"; then
  echo "cron takes hour 24" >&2
  exit 1
fi
"$crontab" "$folder/jobs"
exec "$cron/usr/sbin/cron" -f
