use super::*;
use crate::virtio::{Common, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt, Status};
use proptest::prelude::*;

const MAX: u16 = 128;

/// A device with two queues, a feature and a writable byte at offset 4 of its configuration.
struct Toy {
    config: [u8; 8],
}

impl Device for Toy {
    const ID: u32 = 42;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue < 2 { MAX } else { 0 }
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let from = self.config.get(offset as usize..).unwrap_or_default();
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        if let (4, &[value]) = (offset, data) {
            self.config[4] = value;
        }
    }
}

struct Window {
    // One queue more than the device has.
    common: Common<3>,
    device: Toy,
}

impl Window {
    fn new() -> Self {
        Self { common: Common::new(), device: Toy { config: [1, 2, 3, 4, 5, 6, 7, 8] } }
    }

    fn get(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        read(&self.common, &self.device, offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, offset: u64, value: u32) -> Effect {
        write(&mut self.common, &mut self.device, offset, &value.to_le_bytes())
    }

    /// A write that asks nothing of the host.
    fn put(&mut self, offset: u64, value: u32) {
        assert_eq!(self.set(offset, value), Effect::None);
    }

    fn features(&mut self) -> u64 {
        self.put(DEVICE_FEATURES_SEL, 1);
        let high = u64::from(self.get(DEVICE_FEATURES));
        self.put(DEVICE_FEATURES_SEL, 0);
        high << 32 | u64::from(self.get(DEVICE_FEATURES))
    }

    fn choose(&mut self, features: u64) {
        self.put(DRIVER_FEATURES_SEL, 1);
        self.put(DRIVER_FEATURES, (features >> 32) as u32);
        self.put(DRIVER_FEATURES_SEL, 0);
        self.put(DRIVER_FEATURES, features as u32);
    }

    /// drivers/virtio/virtio_mmio.c, vm_setup_vq()
    fn setup_queue(&mut self, index: u32, addresses: [u64; 3]) {
        self.put(QUEUE_SEL, index);
        assert_eq!(self.get(QUEUE_READY), 0);
        let size = self.get(QUEUE_SIZE_MAX);
        assert_eq!(size, MAX.into());
        self.put(QUEUE_SIZE, size);
        let registers = [QUEUE_DESC_LOW, QUEUE_DRIVER_LOW, QUEUE_DEVICE_LOW];
        for (register, address) in registers.into_iter().zip(addresses) {
            self.put(register, address as u32);
            self.put(register + 4, (address >> 32) as u32);
        }
        self.put(QUEUE_READY, 1);
    }

    /// virtio_mmio_probe() and what register_virtio_device() leads to.
    fn linux_probe(&mut self) {
        assert_eq!(self.get(MAGIC_VALUE), 0x7472_6976);
        assert_eq!(self.get(VERSION), 2);
        assert_eq!(self.get(DEVICE_ID), 42);
        assert_eq!(self.get(VENDOR_ID), VENDOR);
        self.put(STATUS, 0);
        self.put(STATUS, 1);
        self.put(STATUS, 3);
        let features = self.features();
        assert_eq!(features, 1 << 3 | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC);
        self.choose(features);
        self.put(STATUS, 11);
        assert_eq!(self.get(STATUS), 11, "FEATURES_OK did not stick");
        self.setup_queue(0, [0x1000, 0x2000, 0x3000]);
        self.setup_queue(1, [0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000]);
        assert_eq!(self.set(STATUS, 15), Effect::Activate);
        assert_eq!(self.get(STATUS), 15);
    }
}

#[test]
fn linux_probes_runs_and_resets() {
    let mut window = Window::new();
    for _ in 0..2 {
        window.linux_probe();
        let queue = window.common.queue(1).unwrap();
        assert!(queue.ready() && queue.size() == MAX);
        let addresses = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
        assert_eq!(addresses, [0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000]);
        assert_eq!(window.set(QUEUE_NOTIFY, 1), Effect::Notify(1));
        assert_eq!(window.set(QUEUE_NOTIFY, 2), Effect::None, "no such queue");
        assert_eq!(window.set(QUEUE_NOTIFY, 0x1_0001), Effect::None, "no such queue");
        // vm_interrupt()
        window.common.interrupt(Interrupt::VRING);
        assert!(window.common.config_changed());
        assert_eq!(window.get(INTERRUPT_STATUS), 3);
        window.put(INTERRUPT_ACK, 1);
        assert_eq!(window.get(INTERRUPT_STATUS), 2);
        window.put(INTERRUPT_ACK, u32::MAX);
        assert_eq!(window.get(INTERRUPT_STATUS), 0);
        // vm_reset()
        assert_eq!(window.set(STATUS, 0), Effect::Reset);
        assert_eq!(window.set(STATUS, 0), Effect::None, "nothing to reset");
        assert!(!window.common.queue(0).unwrap().ready());
        assert_eq!(window.common.features(), 0);
    }
    assert_eq!(window.get(CONFIG_GENERATION), 2, "a reset does not turn the generation back");
}

#[test]
fn features_must_be_offered_and_modern() {
    for features in [0, 1 << 3, F_VERSION_1 | 1 << 4, F_VERSION_1 | 1 << 63] {
        let mut window = Window::new();
        window.put(STATUS, 3);
        window.choose(features);
        window.put(STATUS, 11);
        assert_eq!(window.get(STATUS), 3);
        window.put(STATUS, 15);
        assert_eq!(window.get(STATUS), 3, "DRIVER_OK without FEATURES_OK");
    }
}

#[test]
fn features_are_fixed_by_features_ok() {
    let mut window = Window::new();
    window.put(STATUS, 3);
    window.choose(F_VERSION_1);
    window.put(STATUS, 11);
    window.choose(u64::MAX);
    assert_eq!(window.common.features(), F_VERSION_1);
    window.put(DEVICE_FEATURES_SEL, 2);
    assert_eq!(window.get(DEVICE_FEATURES), 0);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let mut window = Window::new();
    window.choose(F_VERSION_1);
    window.put(STATUS, 8);
    assert_eq!(window.get(STATUS), 0, "FEATURES_OK before DRIVER");
    window.put(STATUS, 1);
    window.put(STATUS, 2);
    assert_eq!(window.get(STATUS), 3, "only a reset takes bits away");
    window.put(STATUS, 0x100);
    assert_eq!(window.get(STATUS), 3, "a value that is not 0 does not reset");
    window.put(STATUS, 64);
    assert_eq!(window.get(STATUS), 3, "NEEDS_RESET is the device's");
    assert_eq!(window.set(STATUS, 15), Effect::Activate, "the rest at once");
    window.put(STATUS, 15);
    window.put(STATUS, 128 | 15);
    assert_eq!(window.get(STATUS), 128 | 15);
}

#[test]
fn a_driver_that_failed_does_not_start() {
    let mut window = Window::new();
    window.choose(F_VERSION_1);
    window.put(STATUS, 128 | 3);
    window.put(STATUS, 15);
    assert_eq!(window.get(STATUS), 128 | 11);
}

#[test]
fn a_broken_device_stops_until_reset() {
    let mut window = Window::new();
    window.linux_probe();
    assert!(window.common.active());
    assert!(window.common.needs_reset());
    assert!(!window.common.active());
    assert_eq!(window.get(STATUS), 64 | 15);
    assert_eq!(window.get(INTERRUPT_STATUS), 2);
    assert_eq!(window.set(QUEUE_NOTIFY, 0), Effect::None);
    assert_eq!(window.set(STATUS, 0), Effect::Reset);
    window.linux_probe();
}

#[test]
fn before_the_driver_is_ready_interrupts_wait() {
    let mut window = Window::new();
    assert!(!window.common.config_changed());
    assert_eq!(window.get(INTERRUPT_STATUS), 2);
    assert_eq!(window.get(CONFIG_GENERATION), 1);
    assert_eq!(window.set(QUEUE_NOTIFY, 0), Effect::None);
}

#[test]
fn queues_are_checked_when_handed_over() {
    let good = [0x1000, 0x2000, 0x3000];
    let bad = [
        [0x1008, 0x2000, 0x3000],
        [0x1000, 0x2001, 0x3000],
        [0x1000, 0x2000, 0x3002],
        [u64::MAX - 15, 0x2000, 0x3000],
        [0x1000, u64::MAX - 1, 0x3000],
        [0x1000, 0x2000, u64::MAX - 3],
    ];
    for addresses in bad {
        let mut window = Window::new();
        window.setup_queue(0, addresses);
        assert_eq!(window.get(QUEUE_READY), 0);
        window.setup_queue(0, good);
        assert_eq!(window.get(QUEUE_READY), 1);
    }
    let mut window = Window::new();
    for size in [0, 3, 127, 256, 0x1_0040, u32::MAX] {
        window.put(QUEUE_SIZE, 64);
        window.put(QUEUE_SIZE, size);
        assert_eq!(window.common.queue(0).unwrap().size(), 64);
    }
    // A queue beyond the device's, and one beyond what there is room for.
    for index in [2, 3, 0x1_0000, u32::MAX] {
        window.put(QUEUE_SEL, index);
        assert_eq!(window.get(QUEUE_SIZE_MAX), 0);
        window.put(QUEUE_SIZE, 1);
        window.put(QUEUE_READY, 1);
        assert_eq!(window.get(QUEUE_READY), 0);
    }
}

#[test]
fn a_queue_in_use_cannot_be_changed_but_taken_back() {
    let mut window = Window::new();
    window.linux_probe();
    window.put(QUEUE_SEL, 0);
    window.put(QUEUE_SIZE, 1);
    window.put(QUEUE_DESC_LOW, 0x9000);
    let queue = window.common.queue(0).unwrap();
    assert_eq!((queue.size(), queue.desc_table()), (MAX, 0x1000));
    assert_eq!(window.set(QUEUE_READY, 0), Effect::QueueStop(0));
    assert_eq!(window.get(QUEUE_READY), 0);
    assert_eq!(window.set(QUEUE_READY, 0), Effect::None);
    assert_eq!(window.set(QUEUE_NOTIFY, 0), Effect::None);
    window.put(QUEUE_READY, 1);
    assert_eq!(window.get(QUEUE_READY), 0, "an active device takes no new queue");
}

#[test]
fn registers_want_their_own_offset_and_32_bits() {
    let mut window = Window::new();
    for len in [0, 1, 2, 3, 5, 8] {
        let mut data = [0xff; 8];
        read(&window.common, &window.device, MAGIC_VALUE, &mut data[..len]);
        assert_eq!(data[..len], [0; 8][..len]);
        let effect = write(&mut window.common, &mut window.device, STATUS, &[1; 8][..len]);
        assert_eq!((effect, window.common.status()), (Effect::None, Status::empty()));
    }
    for offset in [1, 2, 3, 0x18, 0x40, 0xc0, 0xb1] {
        assert_eq!(window.get(offset), 0);
        window.put(offset, u32::MAX);
    }
    // A shared memory region that does not exist has a length of all ones.
    assert_eq!((window.get(0xb0), window.get(0xb4)), (u32::MAX, u32::MAX));
}

#[test]
fn the_configuration_takes_any_width() {
    let mut window = Window::new();
    let mut data = [0xff; 12];
    read(&window.common, &window.device, CONFIG, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
    read(&window.common, &window.device, CONFIG + 7, &mut data[..2]);
    assert_eq!(data[..2], [8, 0]);
    assert_eq!(window.get(u64::MAX), 0);
    let effect = write(&mut window.common, &mut window.device, CONFIG + 4, &[9]);
    assert_eq!((effect, window.get(CONFIG + 4)), (Effect::None, 0x0807_0609));
}

/// An offset and a value, mostly ones that do something and that lead on rather than back.
fn accesses() -> impl Strategy<Value = (u64, u32)> {
    let register = prop::sample::select(std::vec![
        DEVICE_FEATURES_SEL,
        DRIVER_FEATURES,
        DRIVER_FEATURES_SEL,
        QUEUE_SEL,
        QUEUE_SIZE,
        QUEUE_READY,
        INTERRUPT_ACK,
        QUEUE_DESC_LOW,
        QUEUE_DESC_HIGH,
        QUEUE_DRIVER_LOW,
        QUEUE_DRIVER_HIGH,
        QUEUE_DEVICE_LOW,
        QUEUE_DEVICE_HIGH,
    ]);
    let value = prop_oneof![
        4 => 0u32..4,
        3 => prop::sample::select(std::vec![
            8u32, 0x40, 0x80, 0x1000, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX,
        ]),
        1 => any::<u32>(),
    ];
    let status = prop::sample::select(std::vec![0u32, 1, 3, 3, 11, 11, 15, 15, 15, 15, 64]);
    prop_oneof![
        8 => (register, value),
        3 => (Just(STATUS), status),
        3 => (Just(QUEUE_NOTIFY), 0u32..4),
        1 => (0u64..0x120, any::<u32>()),
        1 => any::<(u64, u32)>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_accesses_keep_the_invariants(
        negotiated: bool,
        steps in prop::collection::vec((0u8..10, accesses(), 0usize..=8), 0..200)
    ) {
        let mut window = Window::new();
        let offered = offered_features(&window.device);
        let mut running = negotiated;
        if negotiated {
            window.linux_probe();
        } else {
            window.choose(F_VERSION_1);
        }
        for (kind, (offset, value), len) in steps {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            let effect = match kind {
                0 => { read(&window.common, &window.device, offset, &mut data[..len]); Effect::None }
                1 => { let _ = window.common.config_changed(); Effect::None }
                2 if value == 0 => { let _ = window.common.needs_reset(); Effect::None }
                3 => write(&mut window.common, &mut window.device, offset, &data[..len]),
                _ => window.set(offset, value),
            };
            let status = window.common.status();
            match effect {
                Effect::None => {}
                Effect::Activate => {
                    prop_assert!(!running);
                    running = true;
                }
                Effect::Reset => {
                    prop_assert!(running && status.is_empty());
                    running = false;
                }
                Effect::Notify(index) => {
                    prop_assert!(window.common.active());
                    prop_assert!(window.common.queue(index).unwrap().ready());
                }
                Effect::QueueStop(index) => {
                    prop_assert!(running && !window.common.queue(index).unwrap().ready());
                }
            }
            prop_assert_eq!(status.contains(Status::DRIVER_OK), running);
            if running {
                prop_assert!(status.contains(
                    Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK));
            }
            if status.contains(Status::FEATURES_OK) {
                let features = window.common.features();
                prop_assert!(features & !offered == 0 && features & F_VERSION_1 != 0);
            }
            for index in 0..3 {
                let queue = window.common.queue(index).unwrap();
                let size = queue.size();
                prop_assert!(size == 0 || size.is_power_of_two() && size <= MAX);
                if queue.ready() {
                    prop_assert!(index < 2 && size != 0);
                    prop_assert_eq!(queue.desc_table() % 16, 0);
                    prop_assert_eq!(queue.avail_ring() % 2, 0);
                    prop_assert_eq!(queue.used_ring() % 4, 0);
                }
            }
            prop_assert!(window.common.queue(3).is_none());
        }
    }
}
