use super::*;

fn config(console: &Console) -> [u8; 8] {
    let mut data = [0; 8];
    console.read_config(0, &mut data);
    data
}

#[test]
fn shows_a_terminals_size() {
    let console = Console::new(Some((132, 0x1234)));
    assert_eq!(console.features(), F_SIZE);
    assert_eq!(config(&console), [132, 0, 0x34, 0x12, 0, 0, 0, 0]);
    let mut rows = [0; 2];
    console.read_config(2, &mut rows);
    assert_eq!(rows, [0x34, 0x12]);
}

#[test]
fn resize_tells_only_news() {
    let mut console = Console::new(Some((80, 25)));
    assert!(!console.resize(80, 25));
    assert!(console.resize(80, 50));
    assert_eq!(config(&console)[..4], [80, 0, 50, 0]);
}

#[test]
fn a_file_has_no_size() {
    let mut console = Console::new(None);
    assert_eq!(console.features(), 0);
    assert!(!console.resize(80, 25));
    assert_eq!(config(&console), [0; 8]);
}

#[test]
fn has_two_queues() {
    let console = Console::default();
    let sizes = [0, 1, 2, u16::MAX].map(|queue| console.queue_max_size(queue));
    assert_eq!(sizes, [16, 16, 0, 0]);
}

#[cfg(feature = "snapshot")]
#[test]
fn a_console_in_the_place_of_a_terminals_has_a_size_that_is_news() {
    for mut console in [Console::new(None), Console::new(Some((80, 25)))] {
        console.replaces(F_SIZE);
        assert_eq!((console.features(), config(&console)), (F_SIZE, [0; 8]));
        assert!(console.resize(80, 25));
    }
    let mut console = Console::new(None);
    console.replaces(0);
    assert_eq!(console.features(), 0);
}
