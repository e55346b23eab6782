//! VHDX and VHD images, judged by qemu, by a maker of images and a reader that share nothing with the code under test,
//! and by plain copies of the disks they stand for.

mod chains;
mod hostile;
mod qemu;
mod streams;
mod support;
mod written;
