//! SipHash-1-3 over whole words, computed alike by the kernel and the agent.

/// A hash under way.
pub(crate) struct KeyedHash([u64; 4]);

impl KeyedHash {
    #[inline(always)]
    pub(crate) const fn new(seed: [u64; 2]) -> Self {
        Self([
            seed[0] ^ 0x736f_6d65_7073_6575,
            seed[1] ^ 0x646f_7261_6e64_6f6d,
            seed[0] ^ 0x6c79_6765_6e65_7261,
            seed[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    pub(crate) const fn add(&mut self, word: u64) {
        self.0[3] ^= word;
        round(&mut self.0);
        self.0[0] ^= word;
    }

    #[inline(always)]
    pub(crate) const fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        round(&mut self.0);
        round(&mut self.0);
        round(&mut self.0);
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

#[inline(always)]
const fn round(state: &mut [u64; 4]) {
    state[0] = state[0].wrapping_add(state[1]);
    state[2] = state[2].wrapping_add(state[3]);
    state[1] = state[1].rotate_left(13) ^ state[0];
    state[3] = state[3].rotate_left(16) ^ state[2];
    state[0] = state[0].rotate_left(32).wrapping_add(state[3]);
    state[2] = state[2].wrapping_add(state[1]);
    state[1] = state[1].rotate_left(17) ^ state[2];
    state[3] = state[3].rotate_left(21) ^ state[0];
    state[2] = state[2].rotate_left(32);
}
