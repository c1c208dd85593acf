//! What somebody may have meant.

/// "did you mean ...?", or what there is.
pub(super) fn instead(written: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(written, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len().max(written.len()) / 3 && distance < name.len() => {
            format!("did you mean `{name}`?")
        }
        Some(_) => format!("there is {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        None => "there is none".into(),
    }
}

/// Optimal string alignment: insertions, deletions, replacements, and neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
