-- Which pipeline a table belongs to: one that has left its publication is marked by its own sink only.
alter table platform.tables add column if not exists pipeline String default 'platform';
