#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    outboxd_kafka_fuzz::compressed_records(input);
});
