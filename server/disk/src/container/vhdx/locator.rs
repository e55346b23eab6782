//! The parent locator: who the parent is and where it was last seen.

use super::layout::{LOCATOR_VHDX, limit, malformed, unsupported};
use crate::Result;
use crate::container::fields::{field, le_u16, le_u32, shorten};
use crate::container::open::{ParentLink, ParentPath};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Windows writes five.
const ENTRIES_MAX: usize = 64;
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 12;

/// Parses the metadata item.
pub(super) fn decode(item: &[u8]) -> Result<ParentLink> {
    let kind = Uuid::from_bytes_le(field(item, 0));
    if kind != LOCATOR_VHDX {
        return Err(unsupported(format!("a parent locator of kind {kind}")));
    }
    let count = usize::from(le_u16(item, 18));
    if count > ENTRIES_MAX {
        return Err(limit(format!("a parent locator of {count} entries"), ENTRIES_MAX as u64));
    }
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        let key = text(item, le_u32(item, at), le_u16(item, at + 8))?;
        let value = text(item, le_u32(item, at + 4), le_u16(item, at + 10))?;
        if let Some(twice) = entries.insert(key, value) {
            return Err(malformed(format!("the parent locator has a key twice, once as `{}`", shorten(&twice))));
        }
    }
    let id = |key: &str| match entries.get(key) {
        None => Ok(None),
        Some(text) => match Uuid::try_parse(text) {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(malformed(format!("the parent locator's {key} is `{}`", shorten(text)))),
        },
    };
    let linkage = id("parent_linkage")?.ok_or_else(|| malformed("the parent locator has no parent_linkage"))?;
    let ids = [Some(linkage), id("parent_linkage2")?].into_iter().flatten().collect();
    let path = |key: &str| entries.get(key).cloned();
    let paths = [
        path("relative_path").map(ParentPath::Relative),
        path("volume_path").map(ParentPath::Absolute),
        path("absolute_win32_path").map(ParentPath::Absolute),
    ];
    Ok(ParentLink { ids, paths: paths.into_iter().flatten().collect() })
}

fn text(item: &[u8], offset: u32, length: u16) -> Result<String> {
    let raw = item.get(offset as usize..).and_then(|rest| rest.get(..usize::from(length)));
    let units = raw
        .filter(|raw| !raw.is_empty() && raw.len().is_multiple_of(2))
        .map(|raw| raw.chunks_exact(2).map(|pair| u16::from_le_bytes(field(pair, 0))).collect::<Vec<u16>>());
    let text = units.and_then(|units| String::from_utf16(&units).ok()).filter(|text| !text.contains('\0'));
    text.ok_or_else(|| malformed(format!("the parent locator's text of {length} bytes at {offset}")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const PARENT: &str = "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}";

    fn item(kind: Uuid, entries: &[(&str, &str)]) -> Vec<u8> {
        let mut raw = kind.to_bytes_le().to_vec();
        raw.extend_from_slice(&[0, 0]);
        raw.extend_from_slice(&(entries.len() as u16).to_le_bytes());
        let (mut heap, heap_at) = (Vec::new(), HEADER_BYTES + entries.len() * ENTRY_BYTES);
        let mut store = |text: &str| {
            let at = heap_at + heap.len();
            heap.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
            (at as u32, (text.encode_utf16().count() * 2) as u16)
        };
        for (key, value) in entries {
            let ((key_at, key_length), (value_at, value_length)) = (store(key), store(value));
            raw.extend(key_at.to_le_bytes().into_iter().chain(value_at.to_le_bytes()));
            raw.extend(key_length.to_le_bytes().into_iter().chain(value_length.to_le_bytes()));
        }
        raw.extend(heap);
        raw
    }

    /// A locator as Windows writes it.
    pub fn sample() -> Vec<u8> {
        let paths = [("relative_path", r".\b.vhdx"), ("absolute_win32_path", r"\\?\d:\vm\b.vhdx")];
        item(LOCATOR_VHDX, &[("parent_linkage", PARENT), paths[0], paths[1]])
    }

    #[test]
    fn paths_come_in_the_order_they_are_tried_in() {
        let raw = item(
            LOCATOR_VHDX,
            &[("absolute_win32_path", r"\\?\d:\b.vhdx"), ("parent_linkage", PARENT), ("relative_path", r".\b.vhdx")],
        );
        let link = decode(&raw).unwrap();
        assert_eq!(link.ids, [Uuid::try_parse(PARENT).unwrap()]);
        let paths = [ParentPath::Relative(r".\b.vhdx".into()), ParentPath::Absolute(r"\\?\d:\b.vhdx".into())];
        assert_eq!(link.paths, paths);
    }

    #[test]
    fn broken_locators_are_refused() {
        let good = item(LOCATOR_VHDX, &[("parent_linkage", PARENT)]);
        assert!(decode(&good).is_ok());
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "cut to {length} bytes");
        }
        assert!(decode(&item(LOCATOR_VHDX, &[])).is_err());
        assert!(decode(&item(LOCATOR_VHDX, &[("parent_linkage", "none")])).is_err());
        assert!(decode(&item(LOCATOR_VHDX, &[("parent_linkage", PARENT), ("parent_linkage", PARENT)])).is_err());
        assert!(decode(&item(Uuid::from_u128(5), &[("parent_linkage", PARENT)])).is_err());
        assert!(decode(&item(LOCATOR_VHDX, &[("a", "b"); ENTRIES_MAX + 1])).is_err());
    }
}
