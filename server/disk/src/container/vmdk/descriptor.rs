//! The descriptor: the small text file that names the extents of a disk and its parent.

use super::layout::SECTOR_BYTES;
use crate::{DiskError, Result};

const FORMAT: &str = "VMDK descriptor";
/// Real ones have a few hundred bytes; the room in front of a sparse extent is 10 KiB.
const MAX_DESCRIPTOR_BYTES: usize = 64 * 1024;
/// Disks of 2 GiB extents reach a few thousand.
const MAX_EXTENTS: usize = 32 * 1024;
/// The content id that means "no parent".
const NO_PARENT: u32 = 0xffff_ffff;

/// A parsed descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Content id; changes with the first write after opening.
    pub cid: u32,
    /// Content id of the parent, `None` for a base disk.
    pub parent_cid: Option<u32>,
    /// `vmfs`, `vmfsSparse`, `seSparse`, `streamOptimized`, …
    pub create_type: String,
    /// Path of the parent's descriptor, as written.
    pub parent_file_hint: Option<String>,
    /// Extents in order.
    pub extents: Vec<DescriptorExtent>,
}

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorExtent {
    /// Access.
    pub access: Access,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Kind.
    pub kind: ExtentKind,
    /// File, relative to the descriptor; empty for an extent of zeros.
    pub file: String,
    /// First sector within the file.
    pub offset_sectors: u64,
}

/// Access to an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`
    None,
}

/// Kind of an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentKind {
    /// `VMFS` or `FLAT`: the bytes as they are.
    Flat,
    /// `VMFSSPARSE`: a COWD delta.
    CowdSparse,
    /// `SESPARSE`: a delta of VMFS 6.
    SeSparse,
    /// `SPARSE`: a hosted sparse or stream-optimized extent.
    Sparse,
    /// `ZERO`
    Zero,
    /// Raw device mappings and whatever comes later, as written.
    Other(String),
}

impl Descriptor {
    /// Parses the text of a descriptor file. Lines that are not understood are skipped, as the format demands.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_DESCRIPTOR_BYTES {
            return Err(limit("its length in bytes", MAX_DESCRIPTOR_BYTES));
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\0');
        if !text.trim_start_matches('\u{feff}').trim_start().starts_with("# Disk DescriptorFile") {
            return Err(malformed("the first line is not `# Disk DescriptorFile`"));
        }
        let mut found =
            Self { cid: 0, parent_cid: None, create_type: String::new(), parent_file_hint: None, extents: Vec::new() };
        for line in text.lines().map(str::trim) {
            if let Some(extent) = parse_extent(line)? {
                if found.extents.len() == MAX_EXTENTS {
                    return Err(limit("the number of extents", MAX_EXTENTS));
                }
                found.extents.push(extent);
            } else if let Some((name, value)) = line.split_once('=') {
                found.set(name.trim(), value.trim().trim_matches('"'))?;
            }
        }
        if found.create_type.is_empty() {
            return Err(malformed("it has no createType"));
        }
        Ok(found)
    }

    /// Bytes of all extents together; `None` when the sum overflows.
    pub fn capacity_bytes(&self) -> Option<u64> {
        let sectors = self.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors))?;
        sectors.checked_mul(SECTOR_BYTES)
    }

    /// The only file of a base disk that holds its bytes as they are, or `None` for every other kind of disk.
    pub fn flat_file(&self) -> Option<&str> {
        match self.extents.as_slice() {
            [only] if only.kind == ExtentKind::Flat && only.offset_sectors == 0 && self.parent_cid.is_none() => {
                Some(&only.file)
            }
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "CID" => self.cid = content_id(value)?,
            "parentCID" => self.parent_cid = Some(content_id(value)?).filter(|&cid| cid != NO_PARENT),
            "createType" => value.clone_into(&mut self.create_type),
            "parentFileNameHint" => self.parent_file_hint = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

/// `RW 4192256 VMFS "name-flat.vmdk" [offset]`; `None` when the line is no extent.
fn parse_extent(line: &str) -> Result<Option<DescriptorExtent>> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let access = match word {
        "RW" => Access::ReadWrite,
        "RDONLY" => Access::ReadOnly,
        "NOACCESS" => Access::None,
        _ => return Ok(None),
    };
    let bad = || malformed(format!("extent line `{}`", shorten(line)));
    let (sectors, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(bad)?;
    let sectors = sectors.parse().map_err(|_| bad())?;
    let rest = rest.trim_start();
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (file, rest) = match rest.trim_start().strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or_else(bad)?,
        None => ("", rest),
    };
    let offset_sectors = match rest.trim() {
        "" => 0,
        number => number.split_whitespace().next().unwrap_or("0").parse().map_err(|_| bad())?,
    };
    let kind = match kind {
        "VMFS" | "FLAT" => ExtentKind::Flat,
        "VMFSSPARSE" => ExtentKind::CowdSparse,
        "SESPARSE" => ExtentKind::SeSparse,
        "SPARSE" => ExtentKind::Sparse,
        "ZERO" => ExtentKind::Zero,
        "" => return Err(bad()),
        other => ExtentKind::Other(shorten(other)),
    };
    Ok(Some(DescriptorExtent { access, sectors, kind, file: file.to_owned(), offset_sectors }))
}

fn content_id(value: &str) -> Result<u32> {
    u32::from_str_radix(value, 16).map_err(|_| malformed(format!("content id `{}`", shorten(value))))
}

/// Keeps hostile text out of messages.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn malformed(reason: impl Into<String>) -> DiskError {
    DiskError::Malformed { format: FORMAT, reason: reason.into() }
}

fn limit(what: &str, limit: usize) -> DiskError {
    DiskError::Limit { format: FORMAT, what: what.to_owned(), limit: limit as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fb183c20\nparentCID=ffffffff\n\
        createType=\"vmfs\"\n\n# Extent description\nRW 4192256 VMFS \"web-flat.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
        ddb.adapterType = \"lsilogic\"\n";

    #[test]
    fn a_base_disk_names_its_flat_file() {
        let found = Descriptor::parse(BASE.as_bytes()).unwrap();
        assert_eq!(found.cid, 0xfb18_3c20);
        assert_eq!(found.parent_cid, None);
        assert_eq!(found.create_type, "vmfs");
        assert_eq!(found.flat_file(), Some("web-flat.vmdk"));
        assert_eq!(found.capacity_bytes(), Some(4_192_256 * 512));
    }

    #[test]
    fn a_delta_names_its_parent_and_has_no_flat_file() {
        let text = BASE
            .replace("parentCID=ffffffff", "parentCID=fb183c20")
            .replace("\"vmfs\"", "\"seSparse\"\r\nparentFileNameHint=\"web.vmdk\"")
            .replace("VMFS \"web-flat.vmdk\"", "SESPARSE \"web-000001-sesparse.vmdk\"");
        let found = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(found.parent_cid, Some(0xfb18_3c20));
        assert_eq!(found.parent_file_hint.as_deref(), Some("web.vmdk"));
        assert_eq!(found.extents[0].kind, ExtentKind::SeSparse);
        assert_eq!(found.flat_file(), None);
    }

    #[test]
    fn broken_descriptors_are_refused() {
        for text in [
            String::new(),
            "KDMV".to_owned(),
            BASE.replace("createType=\"vmfs\"", ""),
            BASE.replace("4192256", "many"),
            BASE.replace("web-flat.vmdk\"", "web-flat.vmdk"),
            BASE.replace("fb183c20", "xyz"),
            BASE.replace("# Extent", &format!("# {}", "x".repeat(MAX_DESCRIPTOR_BYTES))),
            format!("{BASE}{}", "RW 1 ZERO\n".repeat(MAX_EXTENTS / 8)),
        ] {
            assert!(Descriptor::parse(text.as_bytes()).is_err() || text.contains("ZERO"), "{text:.60}");
        }
        assert!(Descriptor::parse(&vec![b'#'; MAX_DESCRIPTOR_BYTES + 1]).is_err());
    }

    #[test]
    fn a_sum_that_overflows_is_no_capacity() {
        let text = BASE.replace("4192256", &u64::MAX.to_string());
        assert_eq!(Descriptor::parse(text.as_bytes()).unwrap().capacity_bytes(), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(tail in ".{0,200}") {
            let _ = Descriptor::parse(format!("# Disk DescriptorFile\n{tail}").as_bytes());
            let _ = Descriptor::parse(format!("# Disk DescriptorFile\nRW {tail}").as_bytes());
        }
    }
}
