//! Charts as SVG, made on the server: lengths in percent, so that text keeps its size on every screen.

use maud::{Markup, html};

use super::part::{Tone, stacked};

const ROW: usize = 44;
const COLUMNS_HEIGHT: f64 = 140.0;
/// Where columns stand; above the highest is room for its figure.
const BASE: f64 = COLUMNS_HEIGHT + 16.0;

/// A bar below each name, the longest as wide as there is room beside its figure.
pub fn bars(label: &str, values: &[(String, u64)]) -> Markup {
    let most = values.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let told: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value}")).collect();
    html! {
        svg.chart width="100%" height=(values.len() * ROW) role="img" aria-label={ (label) ": " (told.join(", ")) } {
            @for (at, (name, value)) in values.iter().enumerate() {
                @let width = *value as f64 * 86.0 / most as f64;
                text x="0" y=(at * ROW + 14) { (shortened(name)) }
                rect.fill-accent x="0" y=(at * ROW + 20) width={ (format!("{width:.2}")) "%" } height="12" rx="3" {}
                text x={ (format!("{:.2}", width + 1.0)) "%" } y=(at * ROW + 31) { (value) }
            }
        }
    }
}

/// A column for each day or week: parts on top of each other, the first at the bottom.
pub struct Column {
    pub name: String,
    pub parts: Vec<(Tone, u64)>,
}

pub fn columns(label: &str, columns: &[Column]) -> Markup {
    let total = |column: &Column| column.parts.iter().map(|(_, count)| count).sum::<u64>();
    let most = columns.iter().map(total).max().unwrap_or(0).max(1);
    let told: Vec<String> = columns.iter().map(|column| format!("{} {}", column.name, total(column))).collect();
    let step = 100.0 / columns.len().max(1) as f64;
    html! {
        svg.chart width="100%" height=(BASE + 20.0) role="img" aria-label={ (label) ": " (told.join(", ")) } {
            @for (at, column) in columns.iter().enumerate() {
                @let left = format!("{:.2}%", at as f64 * step + step * 0.12);
                @let height = total(column) as f64 * COLUMNS_HEIGHT / most as f64;
                @let places = stacked(column.parts.iter().map(|(_, count)| *count), height);
                @for ((tone, _), (from, long)) in column.parts.iter().zip(&places).filter(|(_, (_, long))| *long > 0.0) {
                    rect class={ "fill-" (tone.class()) } x=(left) y=(format!("{:.1}", BASE - from - long)) width={ (format!("{:.2}", step * 0.76)) "%" } height=(format!("{long:.1}")) {}
                }
                @if total(column) > 0 { text.middle x={ (format!("{:.2}", (at as f64 + 0.5) * step)) "%" } y=(format!("{:.1}", BASE - height - 3.0)) { (total(column)) } }
                text.middle.small x={ (format!("{:.2}", (at as f64 + 0.5) * step)) "%" } y=(BASE + 16.0) { (column.name) }
            }
        }
    }
}

/// A stretch of a disk.
pub struct Stretch {
    pub start: u64,
    pub size: u64,
    /// How much of it holds something; drawn darker.
    pub used: u64,
    pub name: String,
}

/// A disk with what lies on it, to scale; stretches too small to be seen are drawn a little wider.
pub fn disk(label: &str, size: u64, stretches: &[Stretch]) -> Markup {
    let told: Vec<&str> = stretches.iter().map(|stretch| stretch.name.as_str()).collect();
    let percent = |bytes: u64| bytes as f64 * 100.0 / size.max(1) as f64;
    html! {
        svg.disk width="100%" height="44" role="img" aria-label={ (label) ": " (told.join(", ")) } {
            rect.fill-none x="0" y="0" width="100%" height="44" rx="6" {}
            @for (at, stretch) in stretches.iter().enumerate() {
                @let left = percent(stretch.start).min(100.0);
                @let width = percent(stretch.size).max(0.6).min(100.0 - left);
                @let filled = percent(stretch.used.min(stretch.size)).max(0.3).min(width);
                rect class={ "part part-" (at % 6) } x={ (format!("{left:.3}")) "%" } y="0" width={ (format!("{width:.3}")) "%" } height="44" { title { (stretch.name) } }
                @if stretch.used > 0 { rect class={ "used part-" (at % 6) } x={ (format!("{left:.3}")) "%" } y="0" width={ (format!("{filled:.3}")) "%" } height="44" { title { (stretch.name) } } }
                @if width > 9.0 { text x={ (format!("{:.3}", left + 0.8)) "%" } y="27" { (shortened(&stretch.name)) } }
            }
        }
    }
}

/// The dot beside the words for the stretch of that number.
pub fn disk_dot(at: usize) -> Markup {
    html! { span class={ "dot part-" (at % 6) } {} }
}

fn shortened(name: &str) -> String {
    const CHARACTERS_MAX: usize = 34;
    match name.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_of_nothing_and_of_one_are_drawn_within_their_frame() {
        assert!(!bars("x", &[]).0.contains("NaN"));
        assert!(!columns("x", &[]).0.contains("NaN"));
        let one = columns("x", &[Column { name: "1".into(), parts: vec![(Tone::Good, 3), (Tone::Bad, 1)] }]);
        assert!(one.0.contains("height=\"105.0\"") && one.0.contains("height=\"35.0\""), "{}", one.0);
        let end = disk("d", 100, &[Stretch { start: 100, size: 100, used: 100, name: "p".into() }]);
        assert!(end.0.contains("width=\"0.000%\""), "{}", end.0);
        assert!(!disk("d", 0, &[Stretch { start: 5, size: 7, used: 7, name: "p".into() }]).0.contains("NaN"));
    }

    #[test]
    fn text_of_people_cannot_leave_its_place() {
        let drawn = bars("<b>", &[("<script>alert(1)</script>".into(), 1)]).0;
        assert!(!drawn.contains("<script>") && !drawn.contains("<b>"), "{drawn}");
    }
}
