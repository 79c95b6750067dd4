//! Owns the stock of random numbers. Must never give one out twice.

use super::system_calls::random_bytes;

const STOCK: usize = 32;

/// Random numbers of the kernel, fetched many at a time.
#[derive(Debug)]
pub(super) struct Entropy {
    stock: [u64; STOCK],
    left: usize,
}

impl Entropy {
    pub(super) const fn new() -> Self {
        Self { stock: [0; STOCK], left: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        if self.left == 0 {
            let mut bytes = [0; STOCK * 8];
            random_bytes(&mut bytes);
            let (chunks, _) = bytes.as_chunks::<8>();
            for (number, chunk) in self.stock.iter_mut().zip(chunks) {
                *number = u64::from_le_bytes(*chunk);
            }
            self.left = STOCK;
        }
        self.left -= 1;
        std::mem::take(&mut self.stock[self.left])
    }
}
