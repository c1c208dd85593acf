//! Charts as SVG, made on the server: lengths in percent, so that text keeps its size on every screen.

use maud::{Markup, html};

use super::part::{self, Tone, stacked};

const ROW: usize = 44;
/// More names of columns do not fit beside each other on a phone; the last column has one always.
const NAMES_MAX: usize = 7;
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
                @if (columns.len() - 1 - at).is_multiple_of(columns.len().div_ceil(NAMES_MAX)) {
                    text.middle.small x={ (format!("{:.2}", (at as f64 + 0.5) * step)) "%" } y=(BASE + 16.0) { (column.name) }
                }
            }
        }
    }
}

/// A stretch of a disk.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// That of its partition; 0 where there is none.
    pub number: u32,
    pub name: String,
    pub filesystem: String,
    pub label: String,
    pub start: u64,
    pub size: u64,
    /// How much of it holds something; drawn darker.
    pub used: Option<u64>,
    pub mounted_at: String,
}

impl Stretch {
    fn title(&self) -> String {
        let words = [self.filesystem.as_str(), self.label.as_str(), self.name.as_str()];
        let word = words.into_iter().find(|word| !word.is_empty()).unwrap_or("unknown");
        format!("{word} {}", part::size(self.size))
    }
}

/// What a disk consists of, in its order.
enum Part<'a> {
    /// The number among the stretches gives the colour.
    Taken(usize, &'a Stretch),
    Free {
        start: u64,
        size: u64,
    },
}

impl Part<'_> {
    fn size(&self) -> u64 {
        match self {
            Part::Taken(_, stretch) => stretch.size,
            Part::Free { size, .. } => *size,
        }
    }

    fn title(&self) -> String {
        match self {
            Part::Taken(_, stretch) => stretch.title(),
            Part::Free { size, .. } => format!("unallocated {}", part::size(*size)),
        }
    }
}

/// A disk as a bar, what lies on it to scale, and the same as a table.
pub fn disk(label: &str, size: u64, stretches: &[Stretch]) -> Markup {
    let parts = parts(size, stretches);
    html! { (bar(label, &parts)) (list(&parts)) }
}

/// The stretches with what lies between them, as far as it is more than what partitions are aligned to.
fn parts(size: u64, stretches: &[Stretch]) -> Vec<Part<'_>> {
    const ALIGNMENT_BYTES: u64 = 4 << 20;
    let mut sorted: Vec<(usize, &Stretch)> = stretches.iter().enumerate().collect();
    sorted.sort_by_key(|(_, stretch)| stretch.start);
    let (mut parts, mut end) = (Vec::new(), 0);
    for (at, stretch) in sorted {
        let gap = stretch.start.min(size).saturating_sub(end);
        parts.extend((gap > ALIGNMENT_BYTES).then_some(Part::Free { start: end, size: gap }));
        parts.push(Part::Taken(at, stretch));
        end = end.max(stretch.start.saturating_add(stretch.size));
    }
    let gap = size.saturating_sub(end);
    parts.extend((gap > ALIGNMENT_BYTES).then_some(Part::Free { start: end, size: gap }));
    parts
}

/// In percent of all: what is too small to be seen is drawn wider, at the cost of the rest.
fn widths(parts: &[Part<'_>]) -> Vec<f64> {
    const LEAST_PERCENT: f64 = 2.5;
    let total = parts.iter().map(|part| part.size() as f64).sum::<f64>().max(1.0);
    let least = LEAST_PERCENT.min(50.0 / parts.len().max(1) as f64);
    let wished = parts.iter().map(|part| (part.size() as f64 * 100.0 / total).max(least));
    let rest = |width: f64| width - least;
    let spare = wished.clone().map(rest).sum::<f64>();
    let room = 100.0 - least * parts.len() as f64;
    wished
        .map(|width| least + if spare > 0.0 { rest(width) * room / spare } else { room / parts.len() as f64 })
        .collect()
}

fn bar(label: &str, parts: &[Part<'_>]) -> Markup {
    let told: Vec<String> = parts.iter().map(Part::title).collect();
    let widths = widths(parts);
    let lefts = widths.iter().scan(0.0, |at, width| Some(std::mem::replace(at, *at + width)));
    html! {
        svg.disk width="100%" height="44" role="img" aria-label={ (label) ": " (told.join(", ")) } {
            rect.fill-none x="0" y="0" width="100%" height="44" rx="6" {}
            @for ((part, width), left) in parts.iter().zip(&widths).zip(lefts) {
                svg x={ (format!("{left:.3}")) "%" } y="0" width={ (format!("{width:.3}")) "%" } height="44" { (piece(part, *width)) }
            }
        }
    }
}

/// A part within its own frame, which cuts what does not fit.
fn piece(part: &Part<'_>, width: f64) -> Markup {
    let title = part.title();
    html! {
        title { (title) }
        @if let Part::Taken(at, stretch) = part {
            rect class={ "part part-" (at % 6) } x="0" y="0" width="100%" height="44" {}
            @if let Some(used) = stretch.used.filter(|used| *used > 0 && stretch.size > 0) {
                @let filled = used.min(stretch.size) as f64 * 100.0 / stretch.size as f64;
                rect class={ "used part-" (at % 6) } x="0" y="38" width={ (format!("{filled:.2}")) "%" } height="6" {}
            }
        }
        @match fit(&title, width) {
            Fit::Always => { text x="8" y="25" { (title) } }
            Fit::OnWideScreens => { text.wide x="8" y="25" { (title) } (number(part, "narrow")) }
            Fit::Never => { (number(part, "middle")) }
        }
    }
}

fn number(part: &Part<'_>, class: &str) -> Markup {
    let number = match part {
        Part::Taken(_, stretch) => stretch.number,
        Part::Free { .. } => 0,
    };
    html! { @if number > 0 { text class={ "middle " (class) } x="50%" y="25" { (number) } } }
}

enum Fit {
    Always,
    OnWideScreens,
    Never,
}

/// Where a text of this length fits into so many percent of the bar: that of a phone, that of a laptop (pages.css).
fn fit(text: &str, percent: f64) -> Fit {
    const CHARACTER_PIXELS: f64 = 7.5;
    let needed = text.chars().count() as f64 * CHARACTER_PIXELS + 14.0;
    let has_room = |bar_pixels: f64| bar_pixels * percent / 100.0 >= needed;
    match (has_room(320.0), has_room(900.0)) {
        (true, _) => Fit::Always,
        (false, true) => Fit::OnWideScreens,
        (false, false) => Fit::Never,
    }
}

fn list(parts: &[Part<'_>]) -> Markup {
    let is_mounted = |part: &Part<'_>| matches!(part, Part::Taken(_, stretch) if !stretch.mounted_at.is_empty());
    let heads = ["Partition", "File system", "Label", "Begins at", "Size", "Used", "Mounted at"];
    let shown = if parts.iter().any(is_mounted) { heads.len() } else { heads.len() - 1 };
    part::table(
        &heads[..shown],
        &html! {
            @for part in parts {
                tr {
                    @match part {
                        Part::Taken(at, stretch) => {
                            td { span class={ "dot part-" (at % 6) } {} @if stretch.number > 0 { (stretch.number) " " } (stretch.name) }
                            td { (if stretch.filesystem.is_empty() { "not recognised" } else { &stretch.filesystem }) }
                            td { (stretch.label) }
                            td { (part::size(stretch.start)) }
                            td { (part::size(stretch.size)) }
                            td { @if let Some(used) = stretch.used { (part::size(used)) " (" (used.saturating_mul(100) / stretch.size.max(1)) " %)" } }
                            @if shown == heads.len() { td { (stretch.mounted_at) } }
                        }
                        Part::Free { start, size } => {
                            td { span.dot.fill-none {} "unallocated" }
                            td {} td {} td { (part::size(*start)) } td { (part::size(*size)) } td {}
                            @if shown == heads.len() { td {} }
                        }
                    }
                }
            }
        },
    )
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
        assert!(!disk("d", 0, &[stretch(5, 7)]).0.contains("NaN"));
        assert!(!disk("d", 0, &[]).0.contains("NaN"));
    }

    fn stretch(start: u64, size: u64) -> Stretch {
        Stretch { number: 1, start, size, used: Some(size), ..Stretch::default() }
    }

    #[test]
    fn a_disk_is_drawn_whole_with_what_is_unallocated_and_what_is_tiny() {
        const GB: u64 = 1_000_000_000;
        let stretches = [stretch(1 << 20, GB), stretch(300 * GB, 100 * GB), stretch(2 << 30, 1 << 20)];
        let parts = parts(500 * GB, &stretches);
        let titles: Vec<String> = parts.iter().map(Part::title).collect();
        let expect = [
            "unknown 1.0 GB",
            "unallocated 1.1 GB",
            "unknown 1.0 MB",
            "unallocated 297.9 GB",
            "unknown 100.0 GB",
            "unallocated 100.0 GB",
        ];
        assert_eq!(titles, expect);
        let widths = widths(&parts);
        assert!((widths.iter().sum::<f64>() - 100.0).abs() < 0.001, "{widths:?}");
        assert!(widths.iter().all(|width| *width > 2.4) && widths[3] > 50.0, "{widths:?}");
        let beyond = disk("d", 100, &[stretch(u64::MAX, u64::MAX), stretch(0, u64::MAX)]).0;
        assert!(!beyond.contains("inf") && !beyond.contains("NaN"), "{beyond}");
        let many: Vec<Stretch> = (0..200).map(|at| stretch(at, 1)).collect();
        assert!((super::widths(&super::parts(200, &many)).iter().sum::<f64>() - 100.0).abs() < 0.001);
    }

    #[test]
    fn text_of_people_cannot_leave_its_place() {
        let drawn = bars("<b>", &[("<script>alert(1)</script>".into(), 1)]).0;
        assert!(!drawn.contains("<script>") && !drawn.contains("<b>"), "{drawn}");
    }
}
