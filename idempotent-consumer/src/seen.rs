//! Which ids were probably claimed a short while ago. A hint that saves work, and never a reason to
//! take a message for a duplicate: that the table says.

use uuid::Uuid;

/// Words in a block: a cache line.
const WORDS: usize = 8;
/// Bits that an id sets in its block.
const BITS: u32 = 4;
/// Blocks of a generation: 1 MiB.
const BLOCKS: usize = 1 << 14;
/// Ids in a generation: ten bits for each.
const CAPACITY: usize = BLOCKS * WORDS * 64 / 10;

type Block = [u64; WORDS];

/// Two generations of a blocked Bloom filter (Putze, Sanders and Singler, *Cache-, Hash- and
/// Space-Efficient Bloom Filters*, 2007): the last 800,000 ids at least, in 2 MiB.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    young: Vec<Block>,
    old: Vec<Block>,
    /// Ids in the young one.
    count: usize,
}

impl Seen {
    /// Notes ids, and returns the places of those that were probably noted before.
    pub(crate) fn note(&mut self, ids: impl IntoIterator<Item = Uuid>) -> Vec<usize> {
        ids.into_iter().enumerate().filter(|(_, id)| self.note_one(*id)).map(|(at, _)| at).collect()
    }

    fn note_one(&mut self, id: Uuid) -> bool {
        if self.count == CAPACITY {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.fill([0; WORDS]);
            self.count = 0;
        }
        if self.young.is_empty() {
            self.young = vec![[0; WORDS]; BLOCKS];
        }
        let hash = hash_of(id);
        let (at, mask) = (place_of(hash), mask_of(hash));
        let holds =
            |block: &Block| block.iter().zip(&mask).all(|(word, bits)| word & bits == *bits);
        let block = &mut self.young[at];
        if holds(block) {
            return true;
        }
        for (word, bits) in block.iter_mut().zip(&mask) {
            *word |= bits;
        }
        self.count += 1;
        self.old.get(at).is_some_and(holds)
    }
}

/// Ids may share most of their bits, so these are mixed (the finalizer of `MurmurHash3`).
fn hash_of(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    let mut hash = low ^ high.rotate_left(32);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

fn place_of(hash: u64) -> usize {
    // Its upper bits; those of the mask are the lower ones.
    usize::try_from(hash >> 40).unwrap_or(0) % BLOCKS
}

fn mask_of(hash: u64) -> Block {
    let mut mask = [0; WORDS];
    for part in 0..BITS {
        let bit = (hash >> (9 * part)) & 511;
        mask[usize::try_from(bit / 64).unwrap_or(0)] |= 1 << (bit % 64);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_noted_before_is_known(ids in prop::collection::vec(any::<u128>(), 1..500)) {
            let mut seen = Seen::default();
            let ids: Vec<Uuid> = ids.into_iter().map(Uuid::from_u128).collect();
            seen.note(ids.iter().copied());
            prop_assert_eq!(seen.note(ids.iter().copied()).len(), ids.len());
        }
    }

    /// Ids of version 7 of one moment differ in their lower bits only; numbers in theirs.
    #[test]
    fn few_new_ids_are_taken_for_known_ones_however_alike_they_are_and_a_generation_is_remembered()
    {
        let of_one_moment =
            |n: u128| Uuid::from_u128((0x0190_0000_0000_7000_u128 << 64) | (n * 977));
        let numbered = |n: u128| Uuid::from_u128(n);
        let make: [&dyn Fn(u128) -> Uuid; 2] = [&of_one_moment, &numbered];
        for id in make {
            let mut seen = Seen::default();
            let total = 3 * CAPACITY as u128;
            let wrong = seen.note((0..total).map(id)).len();
            assert!(wrong < 3 * CAPACITY / 25, "{wrong} of {total}");
            let latest = total - CAPACITY as u128..total;
            assert_eq!(seen.note(latest.map(id)).len(), CAPACITY);
        }
    }
}
