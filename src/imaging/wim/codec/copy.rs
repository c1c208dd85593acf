//! Copying matches within the output.

use super::Damaged;

/// Copies `length` bytes from `distance` bytes back to `position`, where the ranges may overlap (then they repeat).
#[inline(always)]
pub(super) fn copy_match(output: &mut [u8], position: usize, distance: usize, length: usize) -> Result<(), Damaged> {
    if distance == 0 || distance > position {
        return Err(Damaged("a match that begins before the data"));
    }
    if length > output.len() - position {
        return Err(Damaged("a match that ends after the data"));
    }
    let source = position - distance;
    if distance >= 16 && length + 16 <= output.len() - position {
        // Blocks of a fixed size become two instructions each; what is written too much is written again later.
        let mut done = 0;
        while done < length {
            output.copy_within(source + done..source + done + 16, position + done);
            done += 16;
        }
    } else if distance >= length {
        output.copy_within(source..source + length, position);
    } else {
        repeat(output, position, distance, length);
    }
    Ok(())
}

#[inline]
fn repeat(output: &mut [u8], position: usize, distance: usize, length: usize) {
    let source = position - distance;
    if distance == 1 {
        let byte = output[source];
        output[position..position + length].fill(byte);
        return;
    }
    let window = &mut output[source..position + length];
    for index in 0..length {
        window[index + distance] = window[index];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_match_copies_like_byte_by_byte(before in proptest::collection::vec(any::<u8>(), 1..80), distance in 1usize..90, length in 0usize..90, room in 0usize..120) {
            let mut output = before.clone();
            output.resize(before.len() + room, 0);
            let mut expected = before.clone();
            let copied = copy_match(&mut output, before.len(), distance, length);
            if distance > before.len() || length > room {
                prop_assert!(copied.is_err());
            } else {
                for _ in 0..length {
                    expected.push(expected[expected.len() - distance]);
                }
                prop_assert_eq!(&output[..expected.len()], &expected[..]);
            }
        }
    }
}
