//! The repository from outside: what is backed up is what is read, whatever happens in between.

mod catalogue;
mod collect;
mod crash;
mod damage;
mod fixture;
mod folder;
mod heal;
mod keys;
mod oracle;
mod rotation;
mod support;
mod tasks;
mod verify;
mod writers;
