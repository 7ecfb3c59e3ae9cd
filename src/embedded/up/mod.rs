//! `platform up`: every part of the platform as a child process.
