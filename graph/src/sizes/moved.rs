//! Lengths of what moves positions about, and of what slides a window.

use super::{
    Size,
    shape::{Outputs, Pass},
};
use crate::{
    graph::{Known, Op},
    infer::Inputs,
    rules,
};

type Axes = Vec<Size>;

/// An end of a slice that is beyond every axis.
const FAR: i64 = (1 << 31) - 1;

/// What a slice takes of an axis.
struct Stretch<'a> {
    start: &'a Size,
    end: &'a Size,
    step: &'a Size,
}

impl Pass<'_> {
    pub(super) fn moved(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Option<Outputs> {
        let op = inputs.op;
        let shape = self.shape(op, 0);
        let one = |axes: Axes| Some(Outputs::Known(vec![axes]));
        match op.op.as_str() {
            "Reshape" => match self.target(op, 1) {
                Ok(target) => one(reshaped(op, x, target)?),
                Err(other) => Some(other),
            },
            "Flatten" => {
                let axis = op.int("axis").unwrap_or(1);
                let end = usize::try_from(axis) == Ok(x.len());
                let axis = if end { x.len() } else { inputs.axis(axis, x.len()).ok()? };
                one(vec![Size::product(&x[..axis])?, Size::product(&x[axis..])?])
            }
            "Squeeze" => {
                let axes = inputs.ints_or_attribute(1, "axes").filter(|_| self.settled(op, &[1]));
                let axes = match axes {
                    Some(axes) => inputs.axes(&axes, x.len()).ok()?,
                    None => match self.one_long(x).filter(|_| !inputs.has(1)) {
                        Some(axes) => axes,
                        // Which axes are 1 long is for the sizes to say.
                        None => return Some(Outputs::Nothing),
                    },
                };
                one((0..x.len()).filter(|axis| !axes.contains(axis)).map(|axis| x[axis].clone()).collect())
            }
            "Unsqueeze" => {
                let axes = inputs.ints_or_attribute(1, "axes").filter(|_| self.settled(op, &[1]));
                let Some(axes) = axes else { return Some(Outputs::Nothing) };
                let axes = inputs.axes(&axes, x.len() + axes.len()).ok()?;
                let mut out = x.clone();
                axes.into_iter().for_each(|axis| out.insert(axis, Size::number(1)));
                one(out)
            }
            "Expand" => match self.target(op, 1) {
                Ok(target) => one(self.broadcast(&[x.clone(), target], &shape)),
                Err(other) => Some(other),
            },
            "Tile" => {
                let repeats = self.elements(op, 1)?;
                one(x.iter().zip(&repeats).map(|(axis, repeat)| axis.times(repeat)).collect::<Option<_>>()?)
            }
            "Pad" if self.settled(op, &[1, 3]) => {
                let pads = rules::pads(inputs, x.len()).ok()??;
                let padded = |(axis, &(before, after)): (&Size, &(i64, i64))| {
                    let by = Size::number(before.checked_add(after)?);
                    self.sizes.sum(&[(axis, 1), (&by, 1)])
                };
                one(x.iter().zip(&pads).map(padded).collect::<Option<_>>()?)
            }
            "Slice" => self.sliced(inputs, x, &shape),
            "DepthToSpace" | "SpaceToDepth" => {
                let block = Size::number(op.int("blocksize")?);
                let square = block.times(&block)?;
                let [n, c, h, w] = &x[..] else { return None };
                one(if op.op == "DepthToSpace" {
                    vec![n.clone(), c.over(&square)?, h.times(&block)?, w.times(&block)?]
                } else {
                    vec![n.clone(), c.times(&square)?, h.over(&block)?, w.over(&block)?]
                })
            }
            "Resize" | "Upsample" => one(self.resized(inputs, x, &shape)?),
            "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" | "LpPool" => {
                let axes = self.windows(inputs, x, &shape)?;
                Some(Outputs::Known(vec![axes.clone(), axes]))
            }
            _ => None,
        }
    }

    /// The axes that are 1 long, where these are the same for all sizes.
    fn one_long(&self, axes: &Axes) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for (index, axis) in axes.iter().enumerate() {
            match axis.fixed() {
                Some(1) => found.push(index),
                None if self.sizes.least(axis) <= 1 => return None,
                _ => {}
            }
        }
        Some(found)
    }

    /// A part of a sequence that was split off a value.
    pub(super) fn part(&self, op: &Op) -> Option<Outputs> {
        let parts = self.graph.values[(*op.inputs.first()?)?].parts.as_ref()?;
        let mut axes = self.axes[parts.of].clone()?;
        if parts.keep {
            // Each part of an axis of fixed length has one.
            axes[parts.axis] = Size::of(*self.shape(op, 0).get(parts.axis)?);
        } else {
            axes.remove(parts.axis);
        }
        self.settled(op, &[1]).then_some(Outputs::Known(vec![axes]))
    }

    fn sliced(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Option<Outputs> {
        let op = inputs.op;
        let list = |index: usize, name: &str| match op.ints(name) {
            Some(values) => Some(values.iter().map(|&value| Size::number(value)).collect::<Axes>()),
            None => self.elements(op, index),
        };
        let axes: Vec<usize> = match list(3, "axes") {
            Some(axes) => {
                let axes: Option<Vec<i64>> = axes.iter().map(Size::fixed).collect();
                axes?.into_iter().map(|axis| inputs.axis(axis, x.len()).ok()).collect::<Option<_>>()?
            }
            None if inputs.has(3) => return None,
            None => {
                (0..inputs.shape(1).map_or_else(|| op.ints("starts").map_or(0, <[i64]>::len), |of| of[0]))
                    .collect()
            }
        };
        let (starts, ends, steps) = (list(1, "starts"), list(2, "ends"), list(4, "steps"));
        let mut out = x.clone();
        for (index, &axis) in axes.iter().enumerate() {
            let plain = Size::number(1);
            let stretch = (|| {
                let (start, end) = (starts.as_ref()?.get(index)?, ends.as_ref()?.get(index)?);
                let step = if inputs.has(4) { steps.as_ref()?.get(index)? } else { &plain };
                Some(Stretch { start, end, step })
            })();
            let length = *shape.get(axis)?;
            let taken = stretch.and_then(|stretch| self.stretch(&x[axis], &stretch, length));
            out[axis] = taken.unwrap_or_else(|| self.sizes.fresh(length));
        }
        Some(Outputs::Known(vec![out]))
    }

    /// How much a slice takes of an axis; `length`: how much that is for the bound sizes.
    fn stretch(&mut self, axis: &Size, stretch: &Stretch<'_>, length: usize) -> Option<Size> {
        let Stretch { start, end, step } = *stretch;
        let key = format!("slice {axis:?} {start:?} {end:?} {step:?}");
        // Beyond the end, however long the axis is: a multiple of it is, too.
        let multiple = end.over(axis).is_some_and(|times| self.sizes.is_positive(&times));
        let beyond = axis.fixed().is_some_and(|length| self.sizes.least(end) >= length);
        let far = end.fixed().is_some_and(|end| end >= FAR) || (end.is_open() && (multiple || beyond));
        let number = [axis, start, end, step].iter().all(|size| !size.is_open());
        let more = |sizes: &super::Sizes, size: &Size, than: i64| sizes.least(size) >= than;
        match (start.fixed(), end.fixed()) {
            _ if number => Some(Size::of(length)),
            _ if step.fixed() != Some(1) => None,
            (Some(_), _) if far && !axis.is_open() => Some(Size::of(length)),
            (Some(0), _) if far || end == axis => Some(axis.clone()),
            // The first and the last position of an axis that has any.
            (Some(0), Some(1)) | (Some(-1), _)
                if more(&self.sizes, axis, 1) && (start.fixed() == Some(0) || far) =>
            {
                Some(Size::number(1))
            }
            // All but the first, all but the last.
            (Some(1), _) if far && more(&self.sizes, axis, 1) => {
                self.sizes.sum(&[(axis, 1), (&Size::number(1), -1)])
            }
            (Some(0), Some(-1)) if more(&self.sizes, axis, 1) => {
                self.sizes.sum(&[(axis, 1), (&Size::number(1), -1)])
            }
            (Some(0), Some(most)) if most > 1 => Some(self.sizes.at_most(key, length, axis)),
            _ if more(&self.sizes, end, 1) && (start.fixed() == Some(0) || more(&self.sizes, start, 1)) => {
                let most = self.sizes.sum(&[(end, 1), (start, -1)])?;
                let most = if self.sizes.is_positive(&most) { most } else { return None };
                Some(self.sizes.at_most(key, length, &most))
            }
            _ => None,
        }
    }

    fn resized(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Option<Axes> {
        let op = inputs.op;
        if op.op == "Resize" && inputs.has(3) {
            let plain = op.ints("axes").is_none();
            return self.elements(op, 3).filter(|sizes| plain && sizes.len() == x.len());
        }
        let index = if op.op == "Resize" && self.graph.opset > 10 { 2 } else { 1 };
        let settled = self.settled(op, &[index]);
        let scales = inputs.value(index).and_then(|value| value.known.as_ref().and_then(Known::floats));
        let scales = scales.filter(|scales| settled && scales.len() == x.len())?;
        let mut out = Axes::new();
        for ((axis, &scale), &length) in x.iter().zip(scales).zip(shape) {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^20")]
            let whole = (scale.fract() == 0.0 && scale.abs() < f64::from(1 << 20)).then_some(scale as i64);
            let times = whole.and_then(|whole| axis.times(&Size::number(whole)));
            let fixed = axis.fixed().map(|_| Size::of(length));
            out.push(fixed.or(times).unwrap_or_else(|| self.sizes.fresh(length)));
        }
        Some(out)
    }

    /// Batch and channels, and how often a window fits into each other axis.
    fn windows(&mut self, inputs: &Inputs<'_>, x: &Axes, shape: &[usize]) -> Option<Axes> {
        let op = inputs.op;
        let (channels, kernel) = if op.op.starts_with("Conv") {
            if self.of(op, 1)?.iter().any(Size::is_open) {
                return None;
            }
            (Size::of(*shape.get(1)?), inputs.shape(1)?.get(2..)?.to_vec())
        } else {
            let kernel = op.ints("kernel_shape")?.iter().map(|&length| usize::try_from(length).ok());
            (x.get(1)?.clone(), kernel.collect::<Option<_>>()?)
        };
        let mut out = vec![x.first()?.clone(), channels];
        for (axis, &kernel) in kernel.iter().enumerate() {
            let (length, size) = (*shape.get(axis + 2)?, x.get(axis + 2)?);
            let window = Window::new(op, axis, kernel)?;
            out.push(match size.fixed() {
                Some(_) => Size::of(length),
                None => self.window(op, size, &window, length)?,
            });
        }
        Some(out)
    }

    fn window(&mut self, op: &Op, size: &Size, window: &Window, length: usize) -> Option<Size> {
        let Window { kernel, stride, dilation, before, after } = *window;
        let reach = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
        let automatic = !matches!(op.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
        let ceil = op.int("ceil_mode").unwrap_or(0);
        let key = format!(
            "window {} {size:?} {kernel} {stride} {dilation} {before} {after} {automatic} {ceil}",
            op.op
        );
        if automatic {
            return Some(self.sizes.fresh(length));
        }
        let around = before.checked_add(after)?;
        if op.op == "ConvTranspose" {
            if op.ints("output_shape").is_some() || op.ints("output_padding").is_some() {
                return Some(self.sizes.fresh(length));
            }
            let rest = reach.checked_sub(around)?.checked_sub(stride)?;
            return self.sizes.sum(&[(size, stride), (&Size::number(rest), 1)]);
        }
        if stride == 1 {
            let rest = Size::number(around.checked_sub(reach)?.checked_add(1)?);
            return self.sizes.sum(&[(size, 1), (&rest, 1)]);
        }
        Some(self.sizes.made(key, length, true))
    }
}

/// A window along one axis.
struct Window {
    kernel: i64,
    stride: i64,
    dilation: i64,
    before: i64,
    after: i64,
}

impl Window {
    fn new(op: &Op, axis: usize, kernel: usize) -> Option<Self> {
        let at = |name: &str, place: usize, default: i64| {
            op.ints(name).map_or(Some(default), |values| values.get(place).copied())
        };
        let space = op.ints("pads").map_or(0, |pads| pads.len() / 2);
        Some(Self {
            kernel: i64::try_from(kernel).ok().filter(|&kernel| kernel > 0)?,
            stride: at("strides", axis, 1)?,
            dilation: at("dilations", axis, 1)?,
            before: at("pads", axis, 0)?,
            after: at("pads", axis + space, 0)?,
        })
    }
}

fn reshaped(op: &Op, x: &Axes, target: Axes) -> Option<Axes> {
    let zero = op.int("allowzero").unwrap_or(0) != 0;
    let mut out = Axes::new();
    let mut free = None;
    for (index, size) in target.into_iter().enumerate() {
        out.push(match size.fixed() {
            Some(-1) if free.is_none() => {
                free = Some(index);
                Size::number(1)
            }
            Some(0) if !zero => x.get(index)?.clone(),
            _ => size,
        });
    }
    if let Some(index) = free {
        // What is left over, where that is a size.
        out[index] = Size::product(x)?.over(&Size::product(&out)?)?;
    }
    Some(out)
}
