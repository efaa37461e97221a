//! The checksum of a PROXY protocol header: CRC-32C (RFC 3720, 12.1).

/// Continues a checksum with more bytes. The first `sum` is `!0`, and the final one has to be
/// inverted.
pub(super) fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut sum = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(sum, |sum, byte| {
        (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)]
    })
}
