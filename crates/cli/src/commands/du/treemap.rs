//! A treemap as SVG: areas in proportion to bytes. Each cut halves what is left along its longer side.

use std::fmt::Write as _;

use crate::output;

/// The size of the picture, in pixels.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 600.0;

/// Text that does not fit is left out, in pixels.
const MIN_TEXT_WIDTH: f64 = 120.0;
const MIN_TEXT_HEIGHT: f64 = 32.0;

#[derive(Clone, Copy)]
struct Rectangle {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Draws areas of so many bytes; the first stands out.
pub(super) fn draw(areas: &[(String, u64)]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    let mut sorted: Vec<(usize, &(String, u64))> = areas.iter().enumerate().filter(|(_, area)| area.1 > 0).collect();
    sorted.sort_by_key(|(index, area)| (std::cmp::Reverse(area.1), *index));
    let whole = Rectangle {
        x: 0.0,
        y: 0.0,
        width: WIDTH,
        height: HEIGHT,
    };
    place(&sorted, whole, &mut text);
    text.push_str("</svg>\n");
    text
}

fn place(areas: &[(usize, &(String, u64))], room: Rectangle, text: &mut String) {
    let Some(((index, (name, bytes)), rest)) = areas.split_first() else {
        return;
    };
    if rest.is_empty() {
        return rectangle(*index, name, *bytes, room, text);
    }
    let total: u64 = areas.iter().map(|(_, area)| area.1).sum();
    // As many as make up half, at least one and not all.
    let mut first = 0;
    let mut count = 0;
    while count + 1 < areas.len() && (count == 0 || (first + areas[count].1.1) * 2 <= total) {
        first += areas[count].1.1;
        count += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a pixel is coarser")]
    let part = first as f64 / total as f64;
    let (one, other) = if room.width >= room.height {
        let width = room.width * part;
        (
            Rectangle { width, ..room },
            Rectangle {
                x: room.x + width,
                width: room.width - width,
                ..room
            },
        )
    } else {
        let height = room.height * part;
        (
            Rectangle { height, ..room },
            Rectangle {
                y: room.y + height,
                height: room.height - height,
                ..room
            },
        )
    };
    place(&areas[..count], one, text);
    place(&areas[count..], other, text);
}

fn rectangle(index: usize, name: &str, bytes: u64, room: Rectangle, text: &mut String) {
    let Rectangle { x, y, width, height } = room;
    let size = output::bytes(bytes);
    let colour = if index == 0 { "#9ecae1" } else { "#fdd0a2" };
    let _ = writeln!(
        text,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\" stroke=\"white\">\
         <title>{name}: {size}</title></rect>"
    );
    if width >= MIN_TEXT_WIDTH && height >= MIN_TEXT_HEIGHT {
        let (x, y) = (x + 6.0, y + 16.0);
        let _ = writeln!(
            text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\">{name}<tspan x=\"{x:.1}\" dy=\"14\">{size}</tspan></text>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_in_proportion() {
        let areas: Vec<(String, u64)> = [500, 300, 100, 100, 0].map(|bytes| (format!("n{bytes}"), bytes)).into();
        let text = draw(&areas);
        let of = |line: &str, field: &str| -> f64 {
            let (_, rest) = line.split_once(&format!("{field}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let drawn: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with("<rect"))
            .map(|line| of(line, "width") * of(line, "height"))
            .collect();
        let expected = [500.0, 300.0, 100.0, 100.0].map(|bytes| bytes / 1000.0 * WIDTH * HEIGHT);
        assert_eq!(drawn.len(), expected.len());
        for (drawn, expected) in drawn.iter().zip(expected) {
            assert!((drawn - expected).abs() < expected / 100.0, "{drawn} {expected}");
        }
        assert_eq!(draw(&[]).lines().count(), 2);
    }
}
