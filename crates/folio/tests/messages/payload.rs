//! Messages that show whether they are whole.

/// Message number `number` of `sender`: its length and all of its bytes follow from the two.
pub(crate) fn message(sender: u64, number: u64, most: usize) -> Vec<u8> {
    let mut state = (sender << 40 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let len = next() as usize % (most - 16);
    let mut bytes = [sender.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend((0..len).map(|_| next() as u8));
    bytes
}

/// Sender and number of a message, which must be whole.
#[track_caller]
pub(crate) fn whole(bytes: &[u8], most: usize) -> (u64, u64) {
    let word = |at: usize| {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("a message is not whole"))
    };
    let (sender, number) = (word(0), word(8));
    assert!(
        bytes == message(sender, number, most),
        "message {number} of sender {sender} is not whole"
    );
    (sender, number)
}

/// Receives so many messages of each of `N` senders, each sender's in its order.
pub(crate) fn receive_all<const N: usize>(
    receiver: &mut folio::shm::Receiver,
    of_each: u64,
    most: usize,
) {
    let (mut next, mut bytes) = ([0; N], Vec::new());
    while next != [of_each; N] {
        receiver.recv(&mut bytes).unwrap();
        let (sender, number) = whole(&bytes, most);
        assert_eq!(number, next[sender as usize], "sender {sender}");
        next[sender as usize] += 1;
    }
}

/// Checks a channel's error by its errno and words.
#[track_caller]
pub(crate) fn fails_with<T: std::fmt::Debug>(
    result: folio::Result<T>,
    errno: folio::Errno,
    words: &str,
) {
    let error = result.expect_err("it should have failed");
    assert!(error.errno() == errno && error.to_string().contains(words), "{error}");
}
