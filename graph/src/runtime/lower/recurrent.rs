//! `RNN`, and `GRU` in the form that the runtime lacks: their steps one after the other.

use super::{Attr, Lower, MAX_UNROLLED};
use crate::onnx::Attribute;

/// Matrices and biases of one gate, for the input and for the state.
struct Gate {
    w: String,
    r: String,
    wb: String,
    rb: String,
}

impl Gate {
    fn sum(&self, lower: &mut Lower<'_>, now: &str, state: &str) -> String {
        let transposed = || [Attr::Int("transB", 1)];
        let from_input = lower.made("Gemm", &[now, &self.w, &self.wb], &transposed());
        let from_state = lower.made("Gemm", &[state, &self.r, &self.rb], &transposed());
        lower.made("Add", &[&from_input, &from_state], &[])
    }
}

/// Writes the next state: of gates, activations, input and state.
type Step = fn(&mut Lower<'_>, &[Gate], &[String], &str, &str) -> Option<String>;

pub(super) fn rnn(lower: &mut Lower<'_>) -> Option<()> {
    unrolled(lower, &["Tanh"], |lower, gates, activations, now, state| {
        let sum = gates.first()?.sum(lower, now, state);
        Some(lower.made(activations.first()?, &[&sum], &[]))
    })
}

/// With the reset gate before the product (`linear_before_reset` 0).
pub(super) fn gru(lower: &mut Lower<'_>) -> Option<()> {
    unrolled(lower, &["Sigmoid", "Tanh"], |lower, gates, activations, now, state| {
        let ([update, reset, hidden], [inner, outer]) = (gates, activations) else { return None };
        let update = update.sum(lower, now, state);
        let update = lower.made(inner, &[&update], &[]);
        let reset = reset.sum(lower, now, state);
        let reset = lower.made(inner, &[&reset], &[]);
        let kept = lower.made("Mul", &[&reset, state], &[]);
        let new = hidden.sum(lower, now, &kept);
        let new = lower.made(outer, &[&new], &[]);
        let apart = lower.made("Sub", &[state, &new], &[]);
        let part = lower.made("Mul", &[&update, &apart], &[]);
        Some(lower.made("Add", &[&new, &part], &[]))
    })
}

/// The activations of all directions, if each is one that the runtime has as an operator.
fn activations(lower: &Lower<'_>, directions: usize, defaults: &[&str]) -> Option<Vec<String>> {
    let names = match lower.op.attributes.get("activations") {
        Some(Attribute::Texts(names)) => names.clone(),
        _ => defaults.repeat(directions).into_iter().map(str::to_owned).collect(),
    };
    let known = |name: &String| matches!(name.as_str(), "Tanh" | "Relu" | "Sigmoid");
    let plain = lower.op.float("clip").unwrap_or(0.0) == 0.0;
    (names.len() == directions * defaults.len() && names.iter().all(known) && plain).then_some(names)
}

fn unrolled(lower: &mut Lower<'_>, defaults: &[&str], step: Step) -> Option<()> {
    let (&[steps, batch, features], &[directions, rows, _], &[_, _, hidden]) =
        (lower.shape(0)?, lower.shape(1)?, lower.shape(2)?)
    else {
        return None;
    };
    let activations = activations(lower, directions, defaults)?;
    if hidden == 0 || lower.op.int("layout").unwrap_or(0) != 0 || steps > MAX_UNROLLED {
        return None;
    }
    let reverse = lower.op.text("direction") == Some("reverse");
    let (mut sequences, mut lasts) = (Vec::new(), Vec::new());
    for direction in 0..directions {
        let gates = gates(lower, direction, [rows, features, hidden])?;
        let own = &activations[direction * defaults.len()..(direction + 1) * defaults.len()];
        let mut state = match part(lower, 5, direction, &[batch, hidden]) {
            Some(state) => state,
            None => {
                let zeros = lower.fill(batch * hidden, 0.0);
                lower.reshape(&zeros, &[batch, hidden])
            }
        };
        let mut outputs = vec![String::new(); steps];
        for index in 0..steps {
            let at = if reverse || direction == 1 { steps - 1 - index } else { index };
            let now = lower.slice(&lower.input(0)?.name, 0, at, at + 1, 1);
            let now = lower.reshape(&now, &[batch, features]);
            state = step(lower, &gates, own, &now, &state)?;
            outputs[at] = lower.reshape(&state, &[1, 1, batch, hidden]);
        }
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        sequences.push(lower.made("Concat", &outputs, &[Attr::Int("axis", 0)]));
        lasts.push(lower.reshape(&state, &[1, batch, hidden]));
    }
    for (index, (parts, axis)) in [(sequences, 1), (lasts, 0)].into_iter().enumerate() {
        if let Some(output) = lower.output(index) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            lower.write("Concat", &parts, &output.name, &[Attr::Int("axis", axis)]);
        }
    }
    Some(())
}

/// One direction of an input.
fn part(lower: &mut Lower<'_>, index: usize, direction: usize, dims: &[usize]) -> Option<String> {
    let whole = lower.input(index)?.name.clone();
    let own = lower.slice(&whole, 0, direction, direction + 1, 1);
    Some(lower.reshape(&own, dims))
}

fn gates(lower: &mut Lower<'_>, direction: usize, [rows, features, hidden]: [usize; 3]) -> Option<Vec<Gate>> {
    let w = part(lower, 1, direction, &[rows, features])?;
    let r = part(lower, 2, direction, &[rows, hidden])?;
    let b = match part(lower, 3, direction, &[2 * rows]) {
        Some(b) => b,
        None => lower.fill(2 * rows, 0.0),
    };
    let gate = |start: usize| {
        let end = start + hidden;
        Gate {
            w: lower.slice(&w, 0, start, end, 1),
            r: lower.slice(&r, 0, start, end, 1),
            wb: lower.slice(&b, 0, start, end, 1),
            rb: lower.slice(&b, 0, rows + start, rows + end, 1),
        }
    };
    Some((0..rows).step_by(hidden).map(gate).collect())
}
