//! The table is whole, and its classes are those of docs/kafka.md.

use super::*;

#[test]
fn codes_print_as_kafka_names_them() {
    assert_eq!(ErrorCode(19).to_string(), "NOT_ENOUGH_REPLICAS (19)");
    assert_eq!(ErrorCode(-1).to_string(), "UNKNOWN_SERVER_ERROR (-1)");
    assert_eq!(ErrorCode(999).to_string(), "error 999");
    assert_eq!(ErrorCode(999).name(), "UNRECOGNIZED");
}

#[test]
fn every_answer_to_produce_has_its_class() {
    let of_class = |class: Class, named: bool| -> Vec<i16> {
        (-2..=200).filter(|code| ErrorCode(*code).class(named) == class).collect()
    };
    for named in [false, true] {
        assert_eq!(of_class(Class::Stored, named), [0]);
        assert_eq!(of_class(Class::NotAppended, named), [2, 19]);
        assert_eq!(of_class(Class::OutOfSequence, named), [45, 46, 47, 48, 49, 59, 90, 120]);
    }
    assert_eq!(of_class(Class::Record, false), [10, 18]);
    assert_eq!(of_class(Class::Record, true), [10, 18, 87]);
    let refused = [17, 21, 29, 31, 32, 33, 35, 42, 43, 53, 54, 58, 61, 62, 63, 64, 65, 66, 67, 76, 104];
    assert_eq!(of_class(Class::Refused, true), refused);
    assert_eq!(of_class(Class::Refused, false).iter().filter(|code| **code != 87).count(), refused.len());
    assert!(of_class(Class::Refused, false).contains(&87));
    for unsure in [-1, 3, 5, 6, 7, 20, 34, 44, 56, 129, 999, i16::MIN, i16::MAX] {
        assert_eq!(ErrorCode(unsure).class(true), Class::Unsure, "{unsure}");
    }
}

#[test]
fn what_is_no_answer_to_produce_says_so() {
    let strange = |code: &i16| ErrorCode(*code).reason() == ErrorCode::OFFSET_OUT_OF_RANGE.reason();
    let codes: Vec<i16> = (-1..=133).filter(strange).collect();
    let ranges = [
        1..=1,
        4..=4,
        11..=12,
        14..=16,
        22..=28,
        30..=30,
        36..=41,
        50..=52,
        55..=55,
        57..=57,
        60..=60,
        68..=71,
        73..=73,
        79..=86,
        88..=88,
        91..=96,
        98..=99,
        101..=102,
        105..=107,
        109..=119,
        121..=128,
        130..=133,
    ];
    assert_eq!(codes, ranges.into_iter().flatten().collect::<Vec<i16>>());
    assert!(ErrorCode(134).reason() == UNKNOWN.reason && ErrorCode(i16::MIN).reason() == UNKNOWN.reason);
}

#[test]
fn each_code_stands_in_the_table_once_with_a_reason_and_what_is_wanted_of_a_person() {
    let mut codes: Vec<i16> = TABLE.iter().map(|known| known.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
    for known in TABLE {
        assert!(!known.reason.is_empty(), "{known:?}");
        let needs_a_person = matches!(known.class, Class::Record | Class::Refused);
        assert!(!needs_a_person || !known.hint.is_empty(), "{known:?}");
    }
    assert!(ErrorCode(29).hint("users").ends_with("--topic users`"));
}
