//! CRC-32 as disk formats use it: the IEEE polynomial (GPT, gzip, partclone) and Castagnoli's (ext4, XFS, btrfs, VHDX).

const IEEE: [u32; 256] = table(0xEDB8_8320);
const CASTAGNOLI: [u32; 256] = table(0x82F6_3B78);

/// CRC-32/ISO-HDLC of `bytes`.
pub fn ieee(bytes: &[u8]) -> u32 {
    !ieee_raw(!0, bytes)
}

/// The IEEE register after `bytes`, without the inversions at both ends: some formats leave them out.
pub fn ieee_raw(register: u32, bytes: &[u8]) -> u32 {
    update(&IEEE, register, bytes)
}

/// CRC-32C of `bytes`.
pub fn castagnoli(bytes: &[u8]) -> u32 {
    !update(&CASTAGNOLI, !0, bytes)
}

fn update(table: &[u32; 256], register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |crc, byte| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)])
}

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ polynomial } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_values_of_both_polynomials_come_out() {
        assert_eq!(super::ieee(b"123456789"), 0xCBF4_3926);
        assert_eq!(super::castagnoli(b"123456789"), 0xE306_9283);
    }
}
