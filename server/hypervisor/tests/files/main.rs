//! The files of a Hyper-V host, judged by Samba, qemu-img and smbclient.

mod protection;
mod proxy;
mod reading;
mod samba;
mod support;
mod trouble;
mod uploads;
