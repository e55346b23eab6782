//! `streamOptimized` VMDK, written and read in one pass.
//!
//! Layout, in sectors of 512 bytes: header `KDMV` with `gdOffset` = all ones, descriptor, grains (marker {lba, size}, zlib data)
//! in ascending order, each table after its grains behind a table marker, the directory behind a directory marker, the footer (the
//! header with the real `gdOffset`) behind a footer marker, an end-of-stream marker. [`read`] insists on all of it.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::{ZlibDecoder, ZlibEncoder};

const SECTOR: u64 = 512;
const MAGIC: [u8; 4] = *b"KDMV";
const VERSION: u32 = 3;
/// Valid newline test, compressed, markers.
const FLAGS: u32 = 0x3_0001;
const GRAIN_SECTORS: u64 = 128;
const GRAIN_BYTES: usize = 64 << 10;
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = 4;
const GD_AT_END: u64 = u64::MAX;
const DESCRIPTOR_SECTORS: u64 = 20;
const OVERHEAD_SECTORS: u64 = 128;
const MARKER_END: u32 = 0;
const MARKER_TABLE: u32 = 1;
const MARKER_DIRECTORY: u32 = 2;
const MARKER_FOOTER: u32 = 3;
/// Compressed grain: zlib never grows 64 KiB by more than this.
const GRAIN_DATA_MAX: usize = GRAIN_BYTES + 1024;
/// Sectors before the first grain that a reader accepts.
const OVERHEAD_MAX: u64 = 1 << 16;

/// Bytes that fill up the last sector.
const fn padding(length: u64) -> usize {
    (length.next_multiple_of(SECTOR) - length) as usize
}

fn header(capacity: u64, gd_offset: u64) -> [u8; 512] {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&FLAGS.to_le_bytes());
    for word in [capacity.div_ceil(SECTOR), GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&(TABLE_ENTRIES as u32).to_le_bytes());
    for word in [0, gd_offset, OVERHEAD_SECTORS] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.push(0); // clean shutdown
    bytes.extend_from_slice(b"\n \r\n");
    bytes.extend_from_slice(&1u16.to_le_bytes()); // deflate
    let mut sector = [0; 512];
    for (to, from) in sector.iter_mut().zip(bytes) {
        *to = from;
    }
    sector
}

fn descriptor(capacity: u64, name: &str) -> Vec<u8> {
    let sectors = capacity.div_ceil(SECTOR);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n# Extent description\n\
         RW {sectors} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"4\"\n",
        sectors / (255 * 63)
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    bytes
}

fn marker(value: u64, kind: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    let fields = value.to_le_bytes().into_iter().chain(0u32.to_le_bytes()).chain(kind.to_le_bytes());
    for (to, from) in sector.iter_mut().zip(fields) {
        *to = from;
    }
    sector
}

/// Writes a disk as a stream, grain by grain.
pub(crate) struct StreamWriter<W: Write> {
    out: W,
    capacity: u64,
    /// Sectors written.
    at: u64,
    tables: Vec<u32>,
    table: Vec<u32>,
    next_grain: u64,
}

impl<W: Write> StreamWriter<W> {
    /// Writes the header and descriptor.
    pub fn new(mut out: W, capacity: u64, name: &str) -> io::Result<Self> {
        out.write_all(&header(capacity, GD_AT_END))?;
        out.write_all(&descriptor(capacity, name))?;
        let rest = OVERHEAD_SECTORS - 1 - DESCRIPTOR_SECTORS;
        out.write_all(&vec![0; (rest * SECTOR) as usize])?;
        Ok(Self { out, capacity, at: OVERHEAD_SECTORS, tables: Vec::new(), table: Vec::new(), next_grain: 0 })
    }

    /// Writes the next grain (64 KiB; the last of the disk may be shorter); zeros are left out.
    pub fn grain(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lba = self.next_grain * GRAIN_SECTORS;
        self.next_grain += 1;
        if crate::sparse::is_zero(bytes) {
            self.table.push(0);
        } else {
            let mut encoder = ZlibEncoder::new(Vec::with_capacity(GRAIN_BYTES / 2), Compression::fast());
            encoder.write_all(bytes)?;
            if bytes.len() < GRAIN_BYTES {
                encoder.write_all(&vec![0; GRAIN_BYTES - bytes.len()])?;
            }
            let data = encoder.finish()?;
            self.table.push(self.at as u32);
            self.out.write_all(&lba.to_le_bytes())?;
            self.out.write_all(&(data.len() as u32).to_le_bytes())?;
            self.out.write_all(&data)?;
            let length = 12 + data.len() as u64;
            self.out.write_all(&vec![0; padding(length)])?;
            self.at += length.div_ceil(SECTOR);
        }
        if self.table.len() as u64 == TABLE_ENTRIES { self.end_table() } else { Ok(()) }
    }

    fn metadata(&mut self, kind: u32, bytes: &[u8]) -> io::Result<u64> {
        let sectors = (bytes.len() as u64).div_ceil(SECTOR);
        self.out.write_all(&marker(sectors, kind))?;
        let start = self.at + 1;
        self.out.write_all(bytes)?;
        self.out.write_all(&vec![0; padding(bytes.len() as u64)])?;
        self.at = start + sectors;
        Ok(start)
    }

    fn end_table(&mut self) -> io::Result<()> {
        let mut table = std::mem::take(&mut self.table);
        if table.iter().all(|entry| *entry == 0) {
            self.tables.push(0);
            return Ok(());
        }
        table.resize(TABLE_ENTRIES as usize, 0);
        let bytes: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
        let start = self.metadata(MARKER_TABLE, &bytes)?;
        self.tables.push(start as u32);
        Ok(())
    }

    /// Writes tables, directory, footer and end of stream.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.table.is_empty() {
            self.end_table()?;
        }
        let tables = self.capacity.div_ceil(SECTOR).div_ceil(GRAIN_SECTORS * TABLE_ENTRIES) as usize;
        let mut directory = std::mem::take(&mut self.tables);
        directory.resize(tables, 0);
        let bytes: Vec<u8> = directory.into_iter().flat_map(u32::to_le_bytes).collect();
        let start = self.metadata(MARKER_DIRECTORY, &bytes)?;
        self.metadata(MARKER_FOOTER, &header(self.capacity, start))?;
        self.out.write_all(&marker(0, MARKER_END))?;
        Ok(self.out)
    }
}

fn bad<T>(reason: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, reason.into()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

struct Reader<R: Read> {
    input: R,
    /// Sectors read.
    at: u64,
    capacity_sectors: u64,
    /// Grain number → sector of its marker, of the current table.
    grains: Vec<u32>,
    table_index: u64,
    tables: Vec<u32>,
    last_lba: Option<u64>,
}

/// Reads a stream for a disk of `capacity` bytes and hands every grain to `write` (offset, bytes). Rejects whatever a real host
/// may reject: wrong header, flags, capacity, order, sizes, tables or directory that do not match, a missing footer, a missing
/// end, bytes after the end.
pub(crate) fn read(
    input: impl Read,
    capacity: u64,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let capacity_sectors = capacity.div_ceil(SECTOR);
    let mut reader = Reader {
        input,
        at: 0,
        capacity_sectors,
        grains: vec![0; TABLE_ENTRIES as usize],
        table_index: 0,
        tables: vec![0; capacity_sectors.div_ceil(GRAIN_SECTORS * TABLE_ENTRIES) as usize],
        last_lba: None,
    };
    reader.check_header()?;
    let directory = loop {
        let sector = reader.sector()?;
        let (value, size) = (u64_at(&sector, 0), u32_at(&sector, 8));
        if size != 0 {
            reader.read_grain(&sector, value, size as usize, capacity, &mut write)?;
            continue;
        }
        match u32_at(&sector, 12) {
            MARKER_TABLE => reader.read_table(value)?,
            MARKER_DIRECTORY => break reader.read_directory(value)?,
            MARKER_FOOTER | MARKER_END => return bad("end before the grain directory"),
            kind => return bad(format!("unknown marker {kind}")),
        }
    };
    reader.check_end(directory)
}

impl<R: Read> Reader<R> {
    fn sector(&mut self) -> io::Result<[u8; 512]> {
        let mut sector = [0; 512];
        match self.input.read_exact(&mut sector) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return bad("the stream ends too early"),
            Err(error) => return Err(error),
        }
        self.at += 1;
        Ok(sector)
    }

    fn check_header(&mut self) -> io::Result<()> {
        let sector = self.sector()?;
        if sector.get(..4) != Some(&MAGIC[..]) {
            return bad("the stream does not start with KDMV");
        }
        self.check_fields(&sector, GD_AT_END)?;
        let (descriptor, length) = (u64_at(&sector, 28), u64_at(&sector, 36));
        let overhead = u64_at(&sector, 64);
        if descriptor != 1 || length == 0 || overhead < descriptor + length || overhead > OVERHEAD_MAX {
            return bad("descriptor or overhead out of place");
        }
        let mut text = Vec::new();
        while self.at < overhead {
            let sector = self.sector()?;
            if self.at <= descriptor + length {
                text.extend_from_slice(&sector);
            }
        }
        let text = String::from_utf8_lossy(&text);
        if !text.contains("createType=\"streamOptimized\"") {
            return bad("the descriptor is not of type streamOptimized");
        }
        if !text.lines().any(|line| line.starts_with(&format!("RW {} SPARSE ", self.capacity_sectors))) {
            return bad("the descriptor's extent does not match the capacity");
        }
        Ok(())
    }

    fn check_fields(&self, sector: &[u8], gd_offset: u64) -> io::Result<()> {
        let wanted = header(self.capacity_sectors * SECTOR, gd_offset);
        for (what, range) in [
            ("version", 4..8),
            ("flags", 8..12),
            ("capacity", 12..20),
            ("grain size", 20..28),
            ("entries per table", 44..48),
            ("redundant directory", 48..56),
            ("gdOffset", 56..64),
            ("line ends", 73..77),
            ("compression", 77..79),
        ] {
            if sector.get(range.clone()) != wanted.get(range) {
                return bad(format!("header: wrong {what}"));
            }
        }
        Ok(())
    }

    fn read_grain(
        &mut self,
        first: &[u8; 512],
        lba: u64,
        size: usize,
        capacity: u64,
        write: &mut impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = self.at - 1;
        if !lba.is_multiple_of(GRAIN_SECTORS) || lba >= self.capacity_sectors || size > GRAIN_DATA_MAX {
            return bad(format!("grain marker at sector {start}: lba {lba}, size {size}"));
        }
        if self.last_lba.is_some_and(|last| last >= lba) {
            return bad(format!("grain {lba} is out of order"));
        }
        self.last_lba = Some(lba);
        let grain = lba / GRAIN_SECTORS;
        if grain / TABLE_ENTRIES != self.table_index {
            self.skip_to_table(grain / TABLE_ENTRIES)?;
        }
        if let Some(slot) = self.grains.get_mut((grain % TABLE_ENTRIES) as usize) {
            *slot = start as u32;
        }
        let mut data = first.get(12..).unwrap_or_default().to_vec();
        while data.len() < size {
            data.extend_from_slice(&self.sector()?);
        }
        if data.get(size..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
            return bad(format!("grain {lba}: bytes after its data"));
        }
        data.truncate(size);
        let mut decoder = ZlibDecoder::new(Bounded(Vec::with_capacity(GRAIN_BYTES)));
        let inflated = decoder.write_all(&data).and_then(|()| decoder.finish());
        let Ok(Bounded(bytes)) = inflated else { return bad(format!("grain {lba} does not inflate")) };
        let offset = lba * SECTOR;
        let wanted = (capacity - offset).min(GRAIN_BYTES as u64) as usize;
        match bytes.get(..wanted) {
            Some(part) if bytes.len() == wanted || bytes.len() == GRAIN_BYTES => write(offset, part),
            _ => bad(format!("grain {lba} holds {} bytes", bytes.len())),
        }
    }

    /// A table without grains may be left out of the stream, but one with grains must have been written by now.
    fn skip_to_table(&mut self, index: u64) -> io::Result<()> {
        if index < self.table_index || self.grains.iter().any(|entry| *entry != 0) {
            return bad(format!("the grain table {} is missing", self.table_index));
        }
        self.table_index = index;
        Ok(())
    }

    fn read_table(&mut self, sectors: u64) -> io::Result<()> {
        if sectors != TABLE_SECTORS {
            return bad(format!("a grain table of {sectors} sectors"));
        }
        let start = self.at;
        let mut entries = Vec::new();
        for _ in 0..sectors {
            let sector = self.sector()?;
            entries.extend(sector.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)));
        }
        if entries != self.grains {
            return bad(format!("grain table {} does not match its grains", self.table_index));
        }
        match self.tables.get_mut(self.table_index as usize) {
            Some(slot) => *slot = start as u32,
            None => return bad("more grain tables than the capacity has"),
        }
        self.grains.fill(0);
        self.table_index += 1;
        Ok(())
    }

    fn read_directory(&mut self, sectors: u64) -> io::Result<u64> {
        if self.grains.iter().any(|entry| *entry != 0) {
            return bad("the last grain table is missing");
        }
        let wanted = (self.tables.len() as u64 * 4).div_ceil(SECTOR);
        if sectors != wanted {
            return bad(format!("a grain directory of {sectors} sectors, not {wanted}"));
        }
        let start = self.at;
        let mut entries = Vec::new();
        for _ in 0..sectors {
            let sector = self.sector()?;
            entries.extend(sector.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)));
        }
        let (directory, rest) = entries.split_at_checked(self.tables.len()).unwrap_or_default();
        if directory != self.tables || rest.iter().any(|entry| *entry != 0) {
            return bad("the grain directory does not match the grain tables");
        }
        Ok(start)
    }

    fn check_end(&mut self, directory: u64) -> io::Result<()> {
        let sector = self.sector()?;
        if u64_at(&sector, 0) != 1 || u32_at(&sector, 8) != 0 || u32_at(&sector, 12) != MARKER_FOOTER {
            return bad("the footer is missing");
        }
        let footer = self.sector()?;
        if footer.get(..4) != Some(&MAGIC[..]) {
            return bad("the footer is no header");
        }
        self.check_fields(&footer, directory)?;
        if self.sector()?.iter().any(|byte| *byte != 0) {
            return bad("the end-of-stream marker is missing");
        }
        let mut more = [0; 1];
        if self.input.read(&mut more)? == 0 { Ok(()) } else { bad("bytes after the end of the stream") }
    }
}

/// Collects one grain and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > GRAIN_BYTES {
            return bad("grain too large");
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(disk: &[u8]) -> Vec<u8> {
        let mut writer = StreamWriter::new(Vec::new(), disk.len() as u64, "d.vmdk").unwrap();
        for grain in disk.chunks(GRAIN_BYTES) {
            writer.grain(grain).unwrap();
        }
        writer.finish().unwrap()
    }

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; (70 << 20) + 1024];
        for (index, byte) in disk.iter_mut().enumerate().take(200_000) {
            *byte = (index % 251) as u8;
        }
        disk[(66 << 20) + 5] = 9;
        *disk.last_mut().unwrap() = 3;
        disk
    }

    fn read_back(stream: &[u8], capacity: usize) -> io::Result<Vec<u8>> {
        let mut disk = vec![0; capacity];
        read(stream, capacity as u64, |offset, bytes| {
            disk[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(disk)
    }

    #[test]
    fn what_is_written_reads_back() {
        let disk = disk();
        assert!(read_back(&stream(&disk), disk.len()).unwrap() == disk);
    }

    #[test]
    fn every_broken_stream_is_rejected() {
        let disk = disk();
        let good = stream(&disk);
        let rejects = |what: &str, broken: &[u8], capacity: usize| {
            assert!(read_back(broken, capacity).is_err(), "{what} was accepted");
        };
        rejects("wrong capacity", &good, disk.len() + 512);
        rejects("no end marker", &good[..good.len() - 512], disk.len());
        rejects("no footer", &[&good[..good.len() - 1536], &good[good.len() - 512..]].concat(), disk.len());
        rejects("bytes after the end", &[&good[..], &[0]].concat(), disk.len());
        for (what, at) in [("magic", 0), ("version", 4), ("flags", 10), ("gdOffset", 56), ("grain size", 20)] {
            let mut broken = good.clone();
            broken[at] ^= 1;
            rejects(what, &broken, disk.len());
        }
        let mut broken = good.clone();
        let footer = broken.len() - 1024;
        broken[footer + 56] ^= 1;
        rejects("footer with another directory", &broken, disk.len());
        let mut broken = good.clone();
        let directory = broken.len() - 1536 - 512;
        broken[directory] ^= 1;
        rejects("directory with another table", &broken, disk.len());
        let mut broken = good;
        broken[128 * 512 + 20] ^= 0xff;
        rejects("grain data", &broken, disk.len());
    }
}
