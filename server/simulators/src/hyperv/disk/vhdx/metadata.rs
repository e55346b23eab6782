//! The metadata region: what the disk is, and who its parent is (MS-VHDX 2.6).

use std::io;

use uuid::{Uuid, uuid};

use super::layout::{damaged, put, u16_at, u32_at, u64_at, uuid_at};

/// Bytes of table and items as they are written here; the region is larger.
pub(super) const METADATA_BYTES: usize = 128 << 10;
/// Bytes of the table, and place of the first item.
const TABLE_BYTES: usize = 64 << 10;
/// Place of the parent locator, which starts a sector of its own.
const LOCATOR_AT: usize = TABLE_BYTES + 4096;
/// Entries a table may have.
const ENTRIES_MAX: u16 = 2047;
/// Largest disk of the format, in bytes.
pub(super) const DISK_BYTES_MAX: u64 = 64 << 40;
/// Largest item of the format, in bytes.
const ITEM_BYTES_MAX: usize = 1 << 20;
/// Pairs of key and value that a locator may have.
const PAIRS_MAX: u16 = 64;

const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
const VHDX_LOCATOR: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");

const IS_VIRTUAL_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;
const LEAVE_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// Where the parent of a differencing file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    /// `DataWriteGuid` of the parent when the child was made.
    pub linkage: Uuid,
    /// From the child's folder, with backslashes.
    pub relative_path: String,
    /// With the prefix `\\?\`.
    pub absolute_path: String,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub block_bytes: u64,
    pub disk_bytes: u64,
    /// Virtual disk id (page 83 data).
    pub disk_id: Uuid,
    pub logical_sector_bytes: u64,
    pub physical_sector_bytes: u64,
    /// Every block stays allocated.
    pub fixed: bool,
    pub parent: Option<Parent>,
}

impl Parameters {
    /// Refuses what the format does not allow.
    pub fn check(&self) -> io::Result<()> {
        let sector = |bytes: u64| bytes == 512 || bytes == 4096;
        if !self.block_bytes.is_power_of_two() || !(1 << 20..=256 << 20).contains(&self.block_bytes) {
            return Err(damaged("block size"));
        }
        if !sector(self.logical_sector_bytes) || !sector(self.physical_sector_bytes) {
            return Err(damaged("sector size"));
        }
        let size = self.disk_bytes;
        if size == 0 || size > DISK_BYTES_MAX || !size.is_multiple_of(self.logical_sector_bytes) {
            return Err(damaged("disk size"));
        }
        Ok(())
    }

    /// Table and items.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut flags = if self.fixed { LEAVE_ALLOCATED } else { 0 };
        if self.parent.is_some() {
            flags |= HAS_PARENT;
        }
        let parameters = [(self.block_bytes as u32).to_le_bytes(), flags.to_le_bytes()].concat();
        let mut items = vec![
            (FILE_PARAMETERS, IS_REQUIRED, parameters),
            (DISK_SIZE, IS_REQUIRED | IS_VIRTUAL_DISK, self.disk_bytes.to_le_bytes().to_vec()),
            (DISK_ID, IS_REQUIRED | IS_VIRTUAL_DISK, self.disk_id.to_bytes_le().to_vec()),
            (LOGICAL_SECTOR, IS_REQUIRED | IS_VIRTUAL_DISK, (self.logical_sector_bytes as u32).to_le_bytes().to_vec()),
            (
                PHYSICAL_SECTOR,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                (self.physical_sector_bytes as u32).to_le_bytes().to_vec(),
            ),
        ];
        if let Some(parent) = &self.parent {
            items.push((PARENT_LOCATOR, IS_REQUIRED, encode_locator(parent)?));
        }
        let mut bytes = vec![0; METADATA_BYTES];
        put(&mut bytes, 0, b"metadata");
        put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
        let mut at = TABLE_BYTES;
        for (index, (id, flags, item)) in items.iter().enumerate() {
            if *id == PARENT_LOCATOR {
                at = LOCATOR_AT;
            }
            let entry = 32 + index * 32;
            put(&mut bytes, entry, &id.to_bytes_le());
            put(&mut bytes, entry + 16, &(at as u32).to_le_bytes());
            put(&mut bytes, entry + 20, &(item.len() as u32).to_le_bytes());
            put(&mut bytes, entry + 24, &flags.to_le_bytes());
            put(&mut bytes, at, item);
            at += item.len();
        }
        Ok(bytes)
    }

    /// Reads a whole metadata region.
    pub fn decode(region: &[u8]) -> io::Result<Self> {
        let count = u16_at(region, 10);
        if !region.starts_with(b"metadata") || count > ENTRIES_MAX {
            return Err(damaged("metadata table"));
        }
        let mut found: [Option<&[u8]>; 6] = [None; 6];
        let known = [FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR];
        for entry in (0..usize::from(count)).map(|index| 32 + index * 32) {
            let (id, flags) = (uuid_at(region, entry), u32_at(region, entry + 24));
            let (at, length) = (u32_at(region, entry + 16) as usize, u32_at(region, entry + 20) as usize);
            let slot = known.iter().zip(&mut found).find(|(known, _)| **known == id && flags & 1 == 0);
            let Some((_, slot)) = slot else {
                if flags & IS_REQUIRED != 0 {
                    return Err(damaged(format!("unknown metadata item {id} is required")));
                }
                continue;
            };
            let item = region.get(at..).and_then(|tail| tail.get(..length));
            let item = item.filter(|_| at >= TABLE_BYTES && length <= ITEM_BYTES_MAX);
            if slot.replace(item.ok_or_else(|| damaged("place of a metadata item"))?).is_some() {
                return Err(damaged(format!("metadata item {id} twice")));
            }
        }
        Self::from_items(found)
    }

    fn from_items([parameters, size, id, logical, physical, locator]: [Option<&[u8]>; 6]) -> io::Result<Self> {
        let item = |item: Option<&'_ [u8]>, length: usize| -> io::Result<Vec<u8>> {
            let item = item.filter(|item| item.len() == length);
            item.map(<[u8]>::to_vec).ok_or_else(|| damaged("a required metadata item"))
        };
        let parameters = item(parameters, 8)?;
        let flags = u32_at(&parameters, 4);
        if flags & !(LEAVE_ALLOCATED | HAS_PARENT) != 0 {
            return Err(damaged("reserved bits of the file parameters"));
        }
        let parent = match (flags & HAS_PARENT != 0, locator) {
            (true, Some(locator)) => Some(decode_locator(locator)?),
            (true, None) => return Err(damaged("no parent locator")),
            (false, _) => None,
        };
        let parameters = Self {
            block_bytes: u32_at(&parameters, 0).into(),
            disk_bytes: u64_at(&item(size, 8)?, 0),
            disk_id: uuid_at(&item(id, 16)?, 0),
            logical_sector_bytes: u32_at(&item(logical, 4)?, 0).into(),
            physical_sector_bytes: u32_at(&item(physical, 4)?, 0).into(),
            fixed: flags & LEAVE_ALLOCATED != 0 && parent.is_none(),
            parent,
        };
        parameters.check()?;
        Ok(parameters)
    }
}

fn encode_locator(parent: &Parent) -> io::Result<Vec<u8>> {
    let pairs = [
        ("parent_linkage", format!("{{{}}}", parent.linkage.hyphenated())),
        ("relative_path", parent.relative_path.clone()),
        ("absolute_win32_path", parent.absolute_path.clone()),
    ];
    let mut bytes = VHDX_LOCATOR.to_bytes_le().to_vec();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(pairs.len() as u16).to_le_bytes());
    let mut strings = Vec::new();
    let first = bytes.len() + pairs.len() * 12;
    for (key, value) in &pairs {
        let (key, value) = (utf16(key), utf16(value));
        let at = first + strings.len();
        bytes.extend_from_slice(&(at as u32).to_le_bytes());
        bytes.extend_from_slice(&((at + key.len()) as u32).to_le_bytes());
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        strings.extend(key);
        strings.extend(value);
    }
    bytes.extend(strings);
    if bytes.len() > METADATA_BYTES - LOCATOR_AT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "path of the parent is too long"));
    }
    Ok(bytes)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn decode_locator(item: &[u8]) -> io::Result<Parent> {
    let count = u16_at(item, 18);
    if uuid_at(item, 0) != VHDX_LOCATOR || count > PAIRS_MAX {
        return Err(damaged("type of the parent locator"));
    }
    let text = |at: u32, length: u16| -> io::Result<String> {
        let bytes = item.get(at as usize..).and_then(|tail| tail.get(..length.into()));
        let bytes = bytes.filter(|bytes| !bytes.is_empty() && bytes.len() % 2 == 0);
        let (pairs, _) = bytes.ok_or_else(|| damaged("place of a locator's text"))?.as_chunks::<2>();
        let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
        char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| damaged("text of the parent locator"))
    };
    let (mut linkage, mut relative_path, mut absolute_path) = (None, String::new(), String::new());
    for entry in (0..usize::from(count)).map(|index| 20 + index * 12) {
        let key = text(u32_at(item, entry), u16_at(item, entry + 8))?;
        let value = text(u32_at(item, entry + 4), u16_at(item, entry + 10))?;
        match key.as_str() {
            "parent_linkage" => linkage = Uuid::parse_str(value.trim_matches(['{', '}'])).ok(),
            "relative_path" => relative_path = value,
            "absolute_win32_path" => absolute_path = value,
            _ => {}
        }
    }
    match linkage {
        Some(linkage) if !relative_path.is_empty() || !absolute_path.is_empty() => {
            Ok(Parent { linkage, relative_path, absolute_path })
        }
        _ => Err(damaged("parent locator names no parent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_read_back_with_their_parent() {
        let parent = Parent {
            linkage: Uuid::from_u128(0x1234),
            relative_path: r".\Größe.vhdx".to_owned(),
            absolute_path: r"\\?\C:\VMs\Größe.vhdx".to_owned(),
        };
        let mut parameters = Parameters {
            block_bytes: 2 << 20,
            disk_bytes: 10 << 30,
            disk_id: Uuid::from_u128(99),
            logical_sector_bytes: 4096,
            physical_sector_bytes: 4096,
            fixed: false,
            parent: Some(parent),
        };
        assert_eq!(Parameters::decode(&parameters.encode().unwrap()).unwrap(), parameters);
        parameters.parent = None;
        parameters.fixed = true;
        assert_eq!(Parameters::decode(&parameters.encode().unwrap()).unwrap(), parameters);
        parameters.disk_bytes += 512;
        assert!(Parameters::decode(&parameters.encode().unwrap()).is_err());
    }
}
