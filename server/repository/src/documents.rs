//! The texts every repository carries, so that it can be understood with nothing else at hand.

use crate::format::names;

const FORMAT: &str = include_str!("../../../docs/repository-format.md");

const README: &str = "\
This folder is a Stillframe backup repository
=============================================

It holds restore points of virtual machines, deduplicated, compressed and encrypted. Do not rename, edit or delete
anything in it: every file is needed, and none is ever changed after it was written.

To list and restore what is here you need
  * this folder (a copy of it will do; reading changes nothing),
  * the passphrase, or the recovery key that was shown when the repository was made.
Without one of the two nobody can read it, the makers of Stillframe included.

With the program `stillframe` (no server, no database):
  stillframe repo list    --path THIS_FOLDER
  stillframe repo show    --path THIS_FOLDER --point POINT
  stillframe repo verify  --path THIS_FOLDER
  stillframe repo restore --path THIS_FOLDER --point POINT --disk KEY --output disk.raw
It asks for the passphrase; the recovery key is accepted in its place. The result is a raw disk image, which QEMU,
VMware's and Microsoft's converters and `dd` understand.

Without the program: repository-format.md in this folder describes every byte, in enough detail to write a reader.
";

/// Object name and text of each.
pub fn all() -> [(&'static str, &'static str); 2] {
    [(names::README, README), (names::FORMAT, FORMAT)]
}
