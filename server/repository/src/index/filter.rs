//! A filter over a fixed set of 64-bit keys: "not there" is certain, "there" is wrong for one key in 256.
//!
//! A binary fuse filter (Graf and Lemire, *Binary Fuse Filters: Fast and Smaller Than Xor Filters*, 2022) with three places
//! of 8 bits a key: 9.1 bits a key at half a million keys, where a blocked Bloom filter of that size errs for one in 40.

use crate::format::Fields;

/// Keys a filter is made for at the most, far below what the arithmetic allows.
pub const FILTER_KEYS_MAX: usize = 1 << 24;
/// Seeds tried; each fails with a probability of a few per cent at worst.
const SEEDS_MAX: u64 = 128;
const HEAD_BYTES: usize = 16;

/// The head: seed 8, length of a segment 4, number of segments 4; then the fingerprints.
pub struct Filter {
    seed: u64,
    /// A power of two.
    segment_bytes: u32,
    segments: u32,
    fingerprints: Box<[u8]>,
}

fn shape(keys: usize) -> (u32, u32) {
    if keys < 2 {
        return (4, 1);
    }
    let count = keys as f64;
    let segment_bytes = 1u32 << ((count.ln() / 3.33f64.ln() + 2.25) as u32).clamp(2, 18);
    let factor = (0.875 + 0.25 * 1e6f64.ln() / count.ln()).max(1.125);
    let places = (count * factor) as u32;
    (segment_bytes, places.div_ceil(segment_bytes).saturating_sub(2).max(1))
}

fn mix(key: u64, seed: u64) -> u64 {
    let mut hash = key.wrapping_add(seed);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

fn fingerprint(hash: u64) -> u8 {
    (hash ^ hash >> 32) as u8
}

impl Filter {
    /// Makes a filter of distinct keys. `None` when they are not distinct (or by a chance that does not happen).
    pub fn new(keys: &[u64]) -> Option<Self> {
        if keys.len() > FILTER_KEYS_MAX {
            return None;
        }
        let (segment_bytes, segments) = shape(keys.len());
        let fingerprints = vec![0; (segments as usize + 2) * segment_bytes as usize].into();
        let mut filter = Self { seed: 0, segment_bytes, segments, fingerprints };
        let mut builder = Builder::new(keys.len(), filter.fingerprints.len());
        for attempt in 1..=SEEDS_MAX {
            filter.seed = mix(attempt, 0x5f5f_5f5f);
            if builder.peel(&filter, keys) {
                builder.assign(&mut filter);
                return Some(filter);
            }
        }
        None
    }

    fn places(&self, hash: u64) -> [usize; 3] {
        let span = u64::from(self.segments) * u64::from(self.segment_bytes);
        let first = ((u128::from(hash) * u128::from(span)) >> 64) as u32;
        let mask = self.segment_bytes - 1;
        let second = first.wrapping_add(self.segment_bytes) ^ (hash >> 18) as u32 & mask;
        let third = first.wrapping_add(self.segment_bytes * 2) ^ hash as u32 & mask;
        [first as usize, second as usize, third as usize]
    }

    /// False only when the key is certainly not in the set.
    pub fn may_contain(&self, key: u64) -> bool {
        let hash = mix(key, self.seed);
        let at = |place: usize| self.fingerprints.get(place).copied().unwrap_or_default();
        let [first, second, third] = self.places(hash);
        fingerprint(hash) == at(first) ^ at(second) ^ at(third)
    }

    /// Length of what [`Self::encode`] gives.
    pub fn encoded_bytes(&self) -> usize {
        HEAD_BYTES + self.fingerprints.len()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.seed.to_le_bytes());
        out.extend(self.segment_bytes.to_le_bytes());
        out.extend(self.segments.to_le_bytes());
        out.extend(&self.fingerprints);
    }

    /// `None` for what [`Self::encode`] did not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (seed, segment_bytes, segments) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let length = (u64::from(segments) + 2) * u64::from(segment_bytes);
        let sound = segment_bytes.is_power_of_two() && segments > 0 && length == fields.0.len() as u64;
        sound.then(|| Self { seed, segment_bytes, segments, fingerprints: fields.0.into() })
    }
}

/// Finds an order in which each key has a place that no later key uses.
struct Builder {
    /// Per place: four times the number of keys, and the exclusive or of which of their three places it is.
    counts: Vec<u8>,
    /// Per place: the exclusive or of the hashes of its keys.
    hashes: Vec<u64>,
    alone: Vec<u32>,
    /// Keys in the order they were peeled off: hash, and which of its places it owns.
    order: Vec<u64>,
    owned: Vec<u8>,
}

impl Builder {
    fn new(keys: usize, places: usize) -> Self {
        Self {
            counts: vec![0; places],
            hashes: vec![0; places],
            alone: Vec::with_capacity(places),
            order: Vec::with_capacity(keys),
            owned: Vec::with_capacity(keys),
        }
    }

    fn peel(&mut self, filter: &Filter, keys: &[u64]) -> bool {
        self.counts.fill(0);
        self.hashes.fill(0);
        self.alone.clear();
        self.order.clear();
        self.owned.clear();
        for key in keys {
            let hash = mix(*key, filter.seed);
            for (which, place) in filter.places(hash).into_iter().enumerate() {
                let Some(count) = self.counts[place].checked_add(4) else { return false };
                self.counts[place] = count ^ which as u8;
                self.hashes[place] ^= hash;
            }
        }
        self.alone.extend((0..self.counts.len() as u32).filter(|place| self.counts[*place as usize] >> 2 == 1));
        while let Some(place) = self.alone.pop() {
            let place = place as usize;
            if self.counts[place] >> 2 != 1 {
                continue; // its key was peeled off by another place
            }
            let (hash, which) = (self.hashes[place], self.counts[place] & 3);
            self.order.push(hash);
            self.owned.push(which);
            for (other, at) in filter.places(hash).into_iter().enumerate() {
                self.counts[at] = (self.counts[at] - 4) ^ other as u8;
                self.hashes[at] ^= hash;
                if self.counts[at] >> 2 == 1 {
                    self.alone.push(at as u32);
                }
            }
        }
        self.order.len() == keys.len()
    }

    fn assign(&self, filter: &mut Filter) {
        for (hash, owned) in self.order.iter().zip(&self.owned).rev() {
            let places = filter.places(*hash);
            let own = places[usize::from(*owned)];
            let others = places.iter().filter(|place| **place != own);
            let rest = others.fold(0, |sum, place| sum ^ filter.fingerprints[*place]);
            filter.fingerprints[own] = fingerprint(*hash) ^ rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u64, salt: u64) -> Vec<u64> {
        (0..count).map(|number| mix(number, salt)).collect()
    }

    #[test]
    fn knows_its_keys_and_few_others_in_nine_bits() {
        for count in [0, 1, 2, 3, 10, 100, 1000, 30_000, 400_000] {
            let set = keys(count, 1);
            let filter = Filter::new(&set).unwrap();
            let mut encoded = Vec::new();
            filter.encode(&mut encoded);
            assert_eq!(encoded.len(), filter.encoded_bytes());
            let filter = Filter::decode(&encoded).unwrap();
            assert!(set.iter().all(|key| filter.may_contain(*key)), "{count}");
            if count >= 1000 {
                let wrong = keys(100_000, 0xabcd_ef00).iter().filter(|key| filter.may_contain(**key)).count();
                assert!((200..600).contains(&wrong), "{count}: {wrong} of 100000");
            }
            if count >= 400_000 {
                let bits = encoded.len() as f64 * 8.0 / count as f64;
                assert!(bits < 9.25, "{bits} bits a key");
            }
        }
    }

    #[test]
    fn keys_that_share_their_head_are_as_good() {
        let set: Vec<u64> = keys(200_000, 7).iter().map(|key| key >> 12 | 0xabc << 52).collect();
        let filter = Filter::new(&set).unwrap();
        assert!(set.iter().all(|key| filter.may_contain(*key)));
    }

    #[test]
    fn what_was_not_encoded_is_refused() {
        let mut encoded = Vec::new();
        Filter::new(&keys(100, 1)).unwrap().encode(&mut encoded);
        assert!(Filter::decode(&encoded[..encoded.len() - 1]).is_none());
        encoded[8] ^= 1;
        assert!(Filter::decode(&encoded).is_none());
        assert!(Filter::decode(&[]).is_none());
    }
}
