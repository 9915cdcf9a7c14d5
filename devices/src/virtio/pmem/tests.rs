use super::*;
use proptest::prelude::*;

#[test]
fn shows_its_range() {
    let pmem = Pmem::new(0x1_4000_0000, 0x20_0000);
    let mut data = [0; 20];
    pmem.read_config(0, &mut data);
    assert_eq!(data[..8], 0x1_4000_0000u64.to_le_bytes());
    assert_eq!(data[8..16], 0x20_0000u64.to_le_bytes());
    assert_eq!(data[16..], [0; 4]);
    assert_eq!(pmem.features(), 0);
    assert_eq!([0, 1].map(|queue| pmem.queue_max_size(queue)), [QUEUE_SIZE, 0]);
}

#[test]
fn parses_a_flush_and_nothing_else() {
    assert_eq!(Pmem::parse(&[0; 4], 4), Ok(Request::Flush));
    assert_eq!(Pmem::parse(&[0; 5], 5), Ok(Request::Flush));
    assert_eq!(Pmem::parse(&[0; 3], 4), Err(Response::Error), "short request");
    assert_eq!(Pmem::parse(&[0; 4], 3), Err(Response::Error), "no room for the response");
    assert_eq!(Pmem::parse(&[1, 0, 0, 0], 4), Err(Response::Error), "unknown type");
    assert_eq!(Response::Ok.to_bytes(), [0; 4]);
    assert_eq!(Response::Error.to_bytes(), [0xff; 4]);
}

proptest! {
    #[test]
    fn only_type_0_is_accepted(
        request in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..8),
        writable in prop_oneof![0u64..8, any::<u64>()],
    ) {
        let expected = request.get(..4) == Some(&[0; 4]) && writable >= 4;
        prop_assert_eq!(Pmem::parse(&request, writable).is_ok(), expected);
    }
}
