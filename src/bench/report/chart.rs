//! A chart as inline SVG.
//!
//! `plotters` writes colours as attributes of the elements: the light ones, for which the page's style sheet
//! substitutes the dark ones.

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::ReportError;
use super::axis::Axis;

/// The colours of lines, as `style.css` knows them. A mark distinguishes each line, too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x0B, 0x62, 0xA8),
    RGBColor(0xC2, 0x50, 0x0A),
    RGBColor(0x00, 0x79, 0x5A),
    RGBColor(0x8A, 0x3F, 0xA0),
    RGBColor(0x7A, 0x5B, 0x01),
    RGBColor(0x4A, 0x55, 0x68),
];
const MARKS: [&str; 3] = ["●", "■", "▲"];
const INK: RGBColor = RGBColor(0x57, 0x60, 0x6A);
const GRID: RGBColor = RGBColor(0xD0, 0xD7, 0xDE);
/// In units of the chart, of which a wide one has 960.
const FONT: u32 = 30;
const STROKE: u32 = 3;
const MARK: i32 = 7;

/// How much room a chart has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// As two wide ones, one over the other.
    Tall,
    Wide,
    Small,
}

/// Lines over two axes.
pub(super) struct Chart {
    /// Unique on the page.
    pub(super) id: String,
    /// What it shows, for whoever does not see it as well.
    pub(super) title: String,
    /// What is to be seen.
    pub(super) description: String,
    pub(super) size: Size,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// One line of a chart, in the values of its axes. What cannot be shown is left out.
#[derive(Default)]
pub(super) struct Line {
    /// In the legend, where there is more than one.
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Points that are marked.
    pub(super) marks: Vec<(f64, f64)>,
    /// At an x, from a low y to a high one.
    pub(super) ranges: Vec<(f64, f64, f64)>,
    /// The area under it is shaded.
    pub(super) filled: bool,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Context<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Plane>;
type Plane = Cartesian2d<Axis, Axis>;

impl Chart {
    pub(super) fn draw(&self) -> Result<Markup, ReportError> {
        let (width, height) = match self.size {
            Size::Tall => (960, 1060),
            Size::Wide => (960, 500),
            Size::Small => (680, 360),
        };
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        self.draw_on(&area).map_err(|error| ReportError::Chart(error.to_string()))?;
        drop(area);
        let (title, description) = (format!("{}-title", self.id), format!("{}-description", self.id));
        Ok(html! {
            figure {
                figcaption { (self.title) }
                svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-labelledby={ (title) " " (description) } {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.description) }
                    (PreEscaped(inside(&svg)))
                }
                (self.legend())
            }
        })
    }

    fn draw_on(&self, area: &Area<'_>) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let mut context = ChartBuilder::on(area)
            .margin(12)
            .margin_right(40)
            .x_label_area_size(if self.x.name.is_empty() { 46 } else { 84 })
            .y_label_area_size(124)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let text = ("sans-serif", FONT).into_font().color(&INK);
        context
            .configure_mesh()
            .axis_style(GRID)
            .bold_line_style(GRID.stroke_width(1))
            .light_line_style(TRANSPARENT)
            .disable_x_mesh()
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc(self.x.name)
            .draw()?;
        for (line, at) in self.lines.iter().zip(0..) {
            self.draw_line(&mut context, line, at)?;
        }
        area.present()
    }

    fn draw_line(
        &self,
        context: &mut Context<'_, '_>,
        line: &Line,
        at: usize,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let colour = COLOURS[at % COLOURS.len()];
        let place = |(x, y): (f64, f64)| Some((self.x.place(x)?, self.y.place(y)?));
        let points: Vec<_> = line.points.iter().copied().filter_map(place).collect();
        if line.filled
            && let (Some((first, _)), Some((last, _))) = (points.first(), points.last())
        {
            let corners = [(*last, self.y.from), (*first, self.y.from)];
            let area = points.iter().copied().chain(corners).collect::<Vec<_>>();
            context.draw_series([Polygon::new(area, colour.mix(0.15))])?;
        }
        let ranges = line.ranges.iter().filter_map(|(x, low, high)| Some([place((*x, *low))?, place((*x, *high))?]));
        context.draw_series(ranges.map(|ends| PathElement::new(ends, colour.mix(0.4).stroke_width(STROKE))))?;
        context.draw_series([PathElement::new(points, colour.stroke_width(STROKE))])?;
        let marks = line.marks.iter().copied().filter_map(place);
        match at % MARKS.len() {
            0 => context.draw_series(marks.map(|place| Circle::new(place, MARK, colour.filled()))).map(drop),
            1 => {
                let square = || Rectangle::new([(-MARK, -MARK), (MARK, MARK)], colour.filled());
                context.draw_series(marks.map(|place| EmptyElement::at(place) + square())).map(drop)
            }
            _ => {
                context.draw_series(marks.map(|place| TriangleMarker::new(place, MARK + 3, colour.filled()))).map(drop)
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            @if self.lines.len() > 1 {
                ul.legend {
                    @for (at, line) in self.lines.iter().enumerate() {
                        li {
                            span class={ "c" (at % COLOURS.len()) } aria-hidden="true" { (MARKS[at % MARKS.len()]) } " "
                            bdi { (line.name) }
                        }
                    }
                }
            }
        }
    }
}

/// What is between the tags of the outermost element: the page has its own, with a description and no fixed size.
fn inside(svg: &str) -> &str {
    let inside = svg.split_once('>').map_or(svg, |(_, rest)| rest);
    inside.rsplit_once("</svg>").map_or(inside, |(inside, _)| inside)
}
