//! Several lines that are shown in place, each of which may become a bar.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Screen;
use crate::error::one_line;

/// Lines below all that is said otherwise, on a terminal only. Gone from the screen when dropped.
#[derive(Debug)]
pub struct Board {
    bars: Option<MultiProgress>,
    lines: Vec<ProgressBar>,
}

impl Board {
    /// An empty one.
    #[must_use]
    pub fn new(screen: &Screen) -> Self {
        Self { bars: screen.bars.clone(), lines: Vec::new() }
    }

    /// Shows these lines, from the first one on, and no others; the second part of each is a bar of so many bytes of so many.
    pub fn show(&mut self, lines: &[(String, Option<(u64, u64)>)]) {
        let Some(bars) = &self.bars else { return };
        while self.lines.len() > lines.len() {
            if let Some(line) = self.lines.pop() {
                line.finish_and_clear();
                bars.remove(&line);
            }
        }
        while self.lines.len() < lines.len() {
            self.lines.push(bars.add(ProgressBar::new(0)));
        }
        for (line, (text, progress)) in self.lines.iter().zip(lines) {
            // Constant templates: if one did not parse, the plain default would be shown.
            let template = match progress {
                Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes}",
                None => "{wide_msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                line.set_style(style);
            }
            if let Some((done, total)) = progress {
                line.set_length(*total);
                line.set_position(*done);
            }
            line.set_message(one_line(&[text]));
            line.tick();
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.show(&[]);
    }
}
