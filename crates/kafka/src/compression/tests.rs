use super::*;

const CODECS: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
/// More than any of these tests has.
const MAX: usize = 64 << 20;

/// Without the codec that this build may not have.
fn codecs() -> impl Iterator<Item = Compression> {
    CODECS.into_iter().filter(|codec| codec.is_built_in())
}

fn settings(compression: Compression) -> Settings {
    Settings { compression, ..Settings::default() }
}

fn seeded() -> fastrand::Rng {
    let seed =
        std::env::var("OUTBOXD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    // Shown when the test fails.
    println!("OUTBOXD_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Words of a few letters, with some noise: it shrinks.
fn text(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let words: Vec<String> = (0..50).map(|_| (0..random.usize(2..9)).map(|_| random.lowercase()).collect()).collect();
    let mut out = Vec::with_capacity(bytes + 9);
    while out.len() < bytes {
        out.extend_from_slice(words[random.usize(..words.len())].as_bytes());
        out.push(random.u8(32..48));
    }
    out.truncate(bytes);
    out
}

fn noise(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn opened(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>, DecompressError> {
    let mut out = b"what was there before".to_vec();
    decompress(compression, bytes, MAX, &mut out)?;
    Ok(out)
}

#[test]
fn names_and_numbers_are_kafkas() {
    let all = [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];
    for (compression, (name, number)) in Compression::ALL.into_iter().zip(all) {
        assert_eq!((compression.name(), compression.number()), (name, number));
        assert_eq!(Compression::named(name), Some(compression));
        assert_eq!(Compression::numbered(number), Some(compression));
    }
    assert_eq!((Compression::named("ZSTD"), Compression::numbered(5)), (None, None));
}

/// Sizes around those of blocks and windows, one compressor for all of them.
#[test]
fn what_was_compressed_is_read_back_whatever_came_before() {
    let mut random = seeded();
    for codec in codecs() {
        let mut compressor = Compressor::new(settings(codec));
        for bytes in [1_000, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537, 200_000, 1_000_000, 5_000_000, 600] {
            let records = text(&mut random, bytes);
            let compressed = compressor.compress(&records).unwrap_or_else(|| panic!("{bytes} bytes with {codec}"));
            assert!(compressed.len() < bytes, "{codec}");
            assert_eq!(opened(codec, &compressed), Ok(records), "{bytes} bytes with {codec}");
        }
    }
}

#[test]
fn the_same_records_become_the_same_bytes_whatever_was_compressed_before() {
    let mut random = seeded();
    for codec in codecs() {
        let mut used = Compressor::new(settings(codec));
        for round in 0..30 {
            let bytes = random.usize(1..150_000);
            let records = text(&mut random, bytes);
            let fresh = Compressor::new(settings(codec)).compress(&records);
            assert_eq!(used.compress(&records), fresh, "round {round} with {codec}");
            assert_eq!(used.sent_bytes(&records), fresh.map_or(bytes, |fresh| fresh.len()), "{codec}");
            // Something that leaves a codec in the middle of its work.
            let _ = used.compress(&noise(&mut random, 70_000));
        }
    }
}

#[test]
fn what_does_not_shrink_is_not_compressed() {
    let mut random = seeded();
    for codec in codecs() {
        let mut compressor = Compressor::new(settings(codec));
        for bytes in [0, 1, 10, 40_000, 1_000_000] {
            assert_eq!(compressor.compress(&noise(&mut random, bytes)), None, "{bytes} bytes with {codec}");
            assert_eq!(compressor.sent_bytes(&noise(&mut random, bytes)), bytes);
        }
    }
    assert_eq!(Compressor::new(Settings::default()).compress(&[0; 1_000]), None);
}

#[test]
fn a_level_has_its_effect() {
    let records = text(&mut fastrand::Rng::with_seed(7), 400_000);
    let size = |settings| Compressor::new(settings).compress(&records).unwrap().len();
    let gzip = |gzip_level| size(Settings { gzip_level, ..settings(Compression::Gzip) });
    assert!(gzip(1) > gzip(6) && gzip(6) > gzip(9) - 1, "{} {} {}", gzip(1), gzip(6), gzip(9));
    if Compression::Zstd.is_built_in() {
        let zstd = |zstd_level| size(Settings { zstd_level, ..settings(Compression::Zstd) });
        assert!(zstd(-7) > zstd(3) && zstd(3) > zstd(19), "{} {} {}", zstd(-7), zstd(3), zstd(19));
    }
}

#[test]
fn every_level_is_read_back() {
    let records = text(&mut fastrand::Rng::with_seed(8), 100_000);
    let mut all: Vec<Settings> =
        GZIP_LEVELS.map(|gzip_level| Settings { gzip_level, ..settings(Compression::Gzip) }).collect();
    if Compression::Zstd.is_built_in() {
        all.extend(ZSTD_LEVELS.map(|zstd_level| Settings { zstd_level, ..settings(Compression::Zstd) }));
    }
    for settings in all {
        let compressed = Compressor::new(settings).compress(&records).unwrap();
        assert_eq!(opened(settings.compression, &compressed).as_ref(), Ok(&records), "{settings:?}");
    }
}

/// An unusually large record leaves nothing behind.
#[test]
fn a_compressor_keeps_no_more_than_an_ordinary_batch_needs() {
    let mut random = fastrand::Rng::with_seed(9);
    let large = text(&mut random, 6 << 20);
    for codec in codecs() {
        let mut compressor = Compressor::new(settings(codec));
        assert_eq!(opened(codec, &compressor.compress(&large).unwrap()).unwrap(), large, "{codec}");
        let kept = compressor.kept_bytes();
        assert!(kept < 26 << 20, "{kept} bytes with {codec}");
    }
}

#[test]
fn a_frame_is_byte_for_byte_what_kafka_reads() {
    let records = [b'a'; 100];
    let compressed = |codec| Compressor::new(settings(codec)).compress(&records).unwrap();
    // Magic, version, oldest reader, one block of so many bytes, which begins with its uncompressed length.
    let snappy = compressed(Compression::Snappy);
    assert_eq!(snappy[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    assert_eq!(snappy[16..20], (snappy.len() as u32 - 20).to_be_bytes());
    assert_eq!(snappy[20], 100);
    // Magic; version 1, independent blocks, no checksums, no content size; blocks of 64 KB; at the end a block of no bytes.
    let lz4 = compressed(Compression::Lz4);
    assert_eq!(lz4[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]);
    assert_eq!(lz4[lz4.len() - 4..], [0; 4]);
    // Magic, deflate, no flags, no time.
    assert_eq!(compressed(Compression::Gzip)[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    if Compression::Zstd.is_built_in() {
        assert_eq!(compressed(Compression::Zstd)[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    }
}

/// A few kilobytes that would be gigabytes.
#[test]
fn a_bomb_is_defused() {
    let zeros = vec![0; 8 << 20];
    for codec in codecs() {
        let bomb = Compressor::new(settings(codec)).compress(&zeros).unwrap();
        assert!(bomb.len() < 500_000, "{codec}");
        let mut out = Vec::new();
        for max in [0, 1, 1_000, 1 << 20, (8 << 20) - 1] {
            assert_eq!(decompress(codec, &bomb, max, &mut out), Err(DecompressError::TooLarge { max }), "{codec}");
            assert_eq!(out.capacity(), 0, "{codec}");
        }
        assert_eq!(decompress(codec, &bomb, 8 << 20, &mut out), Ok(()), "{codec}");
        assert_eq!(out.len(), 8 << 20, "{codec}");
    }
    // A block that says that it is 4 GB.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
    assert_eq!(opened(Compression::Snappy, &claim), Err(DecompressError::TooLarge { max: MAX }));
}

#[test]
fn a_raw_block_of_snappy_is_read_as_well() {
    let records = text(&mut fastrand::Rng::with_seed(10), 50_000);
    let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    assert_eq!(opened(Compression::Snappy, &raw), Ok(records));
}

#[test]
fn what_is_cut_or_damaged_is_an_error_or_something_else_and_never_a_panic() {
    let mut random = seeded();
    let records = text(&mut random, 3_000);
    for codec in codecs() {
        let whole = Compressor::new(settings(codec)).compress(&records).unwrap();
        // A frame of lz4 is read without the mark at its end.
        let end_mark = if codec == Compression::Lz4 { 4 } else { 0 };
        for length in 0..whole.len() - end_mark {
            let cut = opened(codec, &whole[..length]);
            assert!(cut.as_ref() != Ok(&records), "{length} of {} bytes with {codec}", whole.len());
        }
        for _ in 0..2_000 {
            let mut damaged = whole.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            if let Ok(out) = opened(codec, &damaged) {
                assert!(out.len() <= MAX);
            }
        }
    }
}
