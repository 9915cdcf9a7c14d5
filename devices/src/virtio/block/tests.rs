use super::*;
use proptest::prelude::*;

fn disk(readonly: bool) -> Block {
    Block::new(&Options {
        capacity: 100,
        readonly,
        discard: true,
        write_zeroes: true,
        ..Options::default()
    })
}

fn header(kind: u32, sector: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn segment(sector: u64, sectors: u32, flags: u32) -> [u8; SEGMENT_LEN] {
    let mut segment = [0; SEGMENT_LEN];
    segment[..8].copy_from_slice(&sector.to_le_bytes());
    segment[8..12].copy_from_slice(&sectors.to_le_bytes());
    segment[12..].copy_from_slice(&flags.to_le_bytes());
    segment
}

fn field<const N: usize>(block: &Block, offset: u32) -> [u8; N] {
    let mut data = [0; N];
    block.read_config(offset, &mut data);
    data
}

/// Offsets from virtio 1.3, 5.2.4.
#[test]
fn configuration_is_laid_out_as_specified() {
    let block = Block::new(&Options {
        capacity: 0x0102_0304_0506,
        block_size: 512,
        physical_block_size: 4096,
        size_max: 0x10_0000,
        seg_max: 126,
        queues: 2,
        discard: true,
        write_zeroes: true,
        ..Options::default()
    });
    assert_eq!(u64::from_le_bytes(field(&block, 0)), 0x0102_0304_0506);
    assert_eq!(u32::from_le_bytes(field(&block, 8)), 0x10_0000);
    assert_eq!(u32::from_le_bytes(field(&block, 12)), 126);
    assert_eq!(u32::from_le_bytes(field(&block, 20)), 512);
    assert_eq!(field::<2>(&block, 24), [3, 0]);
    assert_eq!(u16::from_le_bytes(field(&block, 26)), 8);
    assert_eq!(u32::from_le_bytes(field(&block, 28)), 0);
    assert_eq!(u16::from_le_bytes(field(&block, 34)), 2);
    assert_eq!(u32::from_le_bytes(field(&block, 36)), MAX_SEGMENT_SECTORS);
    assert_eq!(u32::from_le_bytes(field(&block, 40)), 16);
    assert_eq!(u32::from_le_bytes(field(&block, 44)), 1);
    assert_eq!(u32::from_le_bytes(field(&block, 48)), MAX_SEGMENT_SECTORS);
    assert_eq!(u32::from_le_bytes(field(&block, 52)), 16);
    assert_eq!(field::<1>(&block, 56), [1]);
    assert_eq!(field::<8>(&block, 60), [0; 8]);
    let features = [1, 2, 6, 9, 10, 12, 13, 14].iter().fold(0, |all, bit| all | 1 << bit);
    assert_eq!(block.features(), features);
    assert_eq!([0, 1, 2].map(|queue| block.queue_max_size(queue)), [256, 256, 0]);
}

#[test]
fn a_readonly_disk_refuses_to_write() {
    let block = disk(true);
    assert_eq!(block.features() & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    assert_eq!(block.parse(&header(T_OUT, 0), 512, 0), Err(Status::IoErr));
    assert_eq!(block.parse(&header(T_DISCARD, 0), 16, 0), Err(Status::IoErr));
    assert_eq!(block.parse(&header(T_WRITE_ZEROES, 0), 16, 0), Err(Status::IoErr));
    let range = Range { offset: 0, len: 512 };
    assert_eq!(block.parse(&header(T_IN, 0), 0, 512), Ok(Request::In(range)));
    assert_eq!(block.parse(&header(T_FLUSH, 0), 0, 0), Ok(Request::Flush));
}

#[test]
fn ranges_end_at_the_capacity() {
    let block = disk(false);
    let last = Range { offset: 99 * 512, len: 512 };
    assert_eq!(block.parse(&header(T_IN, 99), 0, 512), Ok(Request::In(last)));
    assert_eq!(block.parse(&header(T_OUT, 99), 512, 0), Ok(Request::Out(last)));
    for (sector, len) in [(99, 1024), (100, 512), (101, 0), (u64::MAX, 512), (0, 511), (0, 513)] {
        assert_eq!(block.parse(&header(T_IN, sector), 0, len), Err(Status::IoErr));
        assert_eq!(block.parse(&header(T_OUT, sector), len, 0), Err(Status::IoErr));
    }
    assert_eq!(block.parse(&header(T_IN, 0), 512, 512), Err(Status::IoErr), "both directions");
    assert_eq!(block.parse(&header(T_OUT, 0), 512, 512), Err(Status::IoErr), "both directions");
}

#[test]
fn other_requests() {
    let block = disk(false);
    assert_eq!(block.parse(&header(T_GET_ID, 7), 0, 20), Ok(Request::GetId));
    assert_eq!(block.parse(&header(T_GET_ID, 0), 0, 19), Err(Status::IoErr));
    assert_eq!(block.parse(&header(T_DISCARD, 0), 48, 0), Ok(Request::Discard(3)));
    assert_eq!(block.parse(&header(T_WRITE_ZEROES, 0), 256, 0), Ok(Request::WriteZeroes(16)));
    for len in [0, 15, 17, 272, u64::MAX] {
        assert_eq!(block.parse(&header(T_DISCARD, 0), len, 0), Err(Status::IoErr));
    }
    for kind in [2, 3, 14, 15, 0x8000_0000, u32::MAX] {
        assert_eq!(block.parse(&header(kind, 0), 0, 0), Err(Status::Unsupported));
    }
    let plain = Block::new(&Options::default());
    assert_eq!(plain.parse(&header(T_DISCARD, 0), 16, 0), Err(Status::Unsupported));
}

#[test]
fn segments_are_checked() {
    let block = disk(false);
    let (discard, zero) = (Request::Discard(1), Request::WriteZeroes(1));
    let range = Range { offset: 512, len: 1024 };
    let checked = |unmap| Ok(Segment { range, unmap });
    assert_eq!(block.segment(discard, &segment(1, 2, 0)), checked(false));
    assert_eq!(block.segment(zero, &segment(1, 2, 1)), checked(true));
    assert_eq!(block.segment(discard, &segment(1, 2, 1)), Err(Status::Unsupported));
    assert_eq!(block.segment(zero, &segment(1, 2, 2)), Err(Status::Unsupported));
    assert_eq!(block.segment(zero, &segment(99, 2, 0)), Err(Status::IoErr));
    assert_eq!(block.segment(zero, &segment(u64::MAX, u32::MAX, 0)), Err(Status::IoErr));
    let big = Block::new(&Options { capacity: u64::MAX, ..Options::default() });
    assert_eq!(big.segment(zero, &segment(0, MAX_SEGMENT_SECTORS + 1, 0)), Err(Status::IoErr));
    assert!(big.segment(zero, &segment(0, MAX_SEGMENT_SECTORS, 0)).is_ok());
}

#[test]
fn resize_tells_only_news() {
    let mut block = disk(false);
    assert!(!block.resize(100));
    assert!(block.resize(200));
    // As many as have a number of bytes.
    assert!(block.resize(u64::MAX));
    assert_eq!(block.capacity(), u64::MAX / 512);
    assert!(block.resize(200));
    assert_eq!(block.capacity(), 200);
}

#[test]
fn a_driver_that_will_not_flush_gets_write_through() {
    assert!(Block::write_through(0));
    assert!(!Block::write_through(F_FLUSH));
}

proptest! {
    /// No header of a hostile guest names a byte outside the disk.
    #[test]
    fn requests_stay_inside_the_disk(
        capacity in prop_oneof![0u64..300, any::<u64>()],
        readonly: bool,
        kind in prop_oneof![0u32..20, any::<u32>()],
        sector in prop_oneof![0u64..300, any::<u64>()],
        lens in prop::array::uniform2(
            prop_oneof![Just(0u64), (0u64..300).prop_map(|n| n * 512), any::<u64>()]),
        raw: [u8; SEGMENT_LEN],
    ) {
        let block = Block::new(&Options {
            capacity, readonly, discard: true, write_zeroes: true, ..Options::default()
        });
        let inside = |range: Range| {
            range.offset.is_multiple_of(512)
                && range.len.is_multiple_of(512)
                && range.offset.checked_add(range.len).is_some_and(|end| end / 512 <= capacity)
        };
        let request = block.parse(&header(kind, sector), lens[0], lens[1]);
        match request {
            Ok(Request::In(range)) => {
                prop_assert!(inside(range) && range.len == lens[1] && lens[0] == 0);
            }
            Ok(Request::Out(range)) => {
                prop_assert!(inside(range) && range.len == lens[0] && !readonly);
            }
            Ok(Request::Discard(n) | Request::WriteZeroes(n)) => {
                prop_assert!(!readonly && (1..=16).contains(&n));
                prop_assert_eq!(u64::from(n) * 16, lens[0]);
                for bytes in [raw, segment(sector, kind, 0)] {
                    if let Ok(checked) = block.segment(request.unwrap(), &bytes) {
                        prop_assert!(inside(checked.range));
                    }
                }
            }
            Ok(Request::Flush | Request::GetId) => {}
            Err(status) => prop_assert_ne!(status, Status::Ok),
        }
    }

    #[test]
    fn configuration_reads_of_any_width_agree(offset in 0u32..80, len in 0usize..16) {
        let block = disk(false);
        let whole: [u8; 128] = field(&block, 0);
        let mut part = [0; 16];
        block.read_config(offset, &mut part[..len]);
        prop_assert_eq!(&part[..len], &whole[offset as usize..][..len]);
        let mut beyond = [0xffu8; 4];
        block.read_config(u32::MAX - offset, &mut beyond);
        prop_assert_eq!(beyond, [0xff; 4]);
    }
}
