//! Every storage location under one suite (`conformance`), and each with the faults of its own kind.

#[macro_use]
mod conformance;
mod daemon;
mod faults;
mod ganesha;
mod local;
mod locks;
mod nfs;
mod proxy;
mod s3;
mod samba;
mod smb;
mod smb_keys;
#[path = "../engine/support.rs"]
#[allow(dead_code)] // shared with the tests of the engine, which use the rest
mod support;
