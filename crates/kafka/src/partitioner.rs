//! Which partition a key belongs to: as Kafka's Java client decides it.
//!
//! Promises: the same partition as every client with the default partitioner of Java's (`BuiltInPartitioner`), so that keys stay
//! where they were when an application changes from its own producer to this one. Does not know: topics, null keys.

/// Murmur2 over 32 bits with the Java client's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(bytes: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's lengths have 32 bits.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// The partition of a key that is not null; an empty one is hashed like any other. `partition_count` is that of *all* the topic's
/// partitions, with or without a leader: over those with a leader only, keys would wander whenever a broker goes down.
///
/// Panics unless `partition_count` is positive.
pub fn partition_for_key(key: &[u8], partition_count: i32) -> i32 {
    assert!(partition_count > 0, "a topic has at least one partition");
    // Not `abs`: it differs from Java's `toPositive`, and i32::MIN has none.
    (murmur2(key) & 0x7fff_ffff) % partition_count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafkas_own_test() {
        // org.apache.kafka.common.utils.UtilsTest.testMurmur2
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn partitions_are_positive_and_in_range_for_every_tail_length() {
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..bytes.len() {
            for count in [1, 2, 3, 7, 1000, i32::MAX] {
                assert!((0..count).contains(&partition_for_key(&bytes[..length], count)));
            }
        }
        // An empty key is hashed, not spread.
        assert_eq!(murmur2(b""), 275_646_681);
        // A negative hash: Java's mask, not the remainder's absolute value.
        assert_eq!(partition_for_key(b"21", 7), 3);
    }
}
