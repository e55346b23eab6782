//! The texts every repository carries, so that it can be understood with nothing else at hand.

use crate::format::names;

const FORMAT: &str = include_str!("../../../docs/repository-format.md");

const README: &str = "\
This folder is a Stillframe backup repository
=============================================

It holds restore points of virtual machines, deduplicated, compressed and encrypted. Do not rename, edit or delete
anything in it: the files refer to each other, and none is ever changed after it was written. If the storage is failing,
copy the whole folder somewhere else first and work with the copy; reading changes nothing.

What you need
-------------
  * this folder, or a copy of it;
  * the passphrase, or a recovery key. A recovery key is printed as eight groups of five letters and digits, and was
    shown when the repository was made or when its keys were changed last. Capitals, dashes and spaces do not matter.
Without one of the two nobody can read it, the makers of Stillframe included.

With the program `stillframe` (one file, no server, no database)
----------------------------------------------------------------
  1. See which machines and restore points there are:
       stillframe repo adopt   --path THIS_FOLDER
     or, one line a restore point:
       stillframe repo list    --path THIS_FOLDER
  2. See a machine as it was: processors, memory, firmware, network cards, and its disks with their keys:
       stillframe repo show    --path THIS_FOLDER --point POINT
  3. Write a disk to a file; repeat for each disk:
       stillframe repo restore --path THIS_FOLDER --point POINT --disk KEY --output disk.raw
     The result is a raw image as large as the disk; what is zero takes no space. QEMU runs it, `dd` writes it to a disk,
     and `qemu-img convert -f raw -O vmdk disk.raw disk.vmdk` (or `-O vhdx`, `-O qcow2`) makes what other hypervisors take.
     Make a machine as `show` described it, the same firmware above all, and give it the disks in the same order.
Every command asks for the passphrase; the recovery key is accepted in its place. Where this is not a folder of the machine,
nothing has to be mounted or copied: put `--location smb://ACCOUNT@HOST/SHARE/FOLDER`, `--location nfs://HOST/EXPORT/FOLDER` or
`--location s3://BUCKET/PREFIX --endpoint https://HOST --access-key ID` in the place of `--path THIS_FOLDER`.
To have a server again, install Stillframe on a new machine and add this folder to it as an existing repository: it takes up
all restore points.

When something is wrong
-----------------------
  stillframe repo verify --path THIS_FOLDER    says what is damaged or missing, and which disks it affects
Every byte is checked when it is read: what a restore writes is what was backed up, or it stops and says where.
  * `keys/` holds what the passphrase and the recovery key open. Any one sound file in it that opens is enough.
  * `config` is needed. `index/` is not: what it says is found again in `packs/`. `tmp/`, if there is one, is waste.
  * A lost or damaged file in `packs/` affects only the disks that `verify` names; all others can be restored.
  * A lost file in `points/` is one restore point; the others do not depend on it.

Without the program
-------------------
`repository-format.md` in this folder describes every byte, in enough detail to write a reader in a day. It takes AES-256-GCM,
HKDF-SHA256, argon2id, BLAKE3, Ed25519, zstd and JSON, for which every common language has libraries.
";

/// Object name and text of each.
pub fn all() -> [(&'static str, &'static str); 2] {
    [(names::README, README), (names::FORMAT, FORMAT)]
}
