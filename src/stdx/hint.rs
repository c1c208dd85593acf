//! Errors that tell the way out.

/// What a person can do about an error, as one sentence. The edge prints the chain of causes on the first line and this
/// on the next, after `hint: `.
pub trait Hint {
    fn hint(&self) -> Option<String>;
}

/// `failed to A: B: C` for an error and its causes. A cause whose text its parent already quotes is not said twice.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
