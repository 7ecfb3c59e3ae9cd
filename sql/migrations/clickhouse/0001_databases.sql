create database if not exists mirror;
create database if not exists analytics;
create database if not exists platform;
