//! Sizes that a graph leaves open, followed through its shapes: what a spec says must hold for all of them.
//!
//! A symbolic dimension is bound to a number only so that shapes can be checked and the network be run. What is derived must not
//! depend on that number. So each length, and each whole number that is computed from lengths, is followed as a **size**: a number
//! times symbols. A symbol is a symbolic dimension, a sum, or what else came out of an operator: that is a symbol of its own, of which
//! nothing more is known. Two sizes are equal only if they are equal whatever the symbols stand for.
//!
//! The rules then see `view`: the same graph, but each symbol is a prime that divides none of the graph's own numbers. So a
//! length is divided, and two lengths agree, only where they are and do for all sizes; and numbers that were computed from sizes
//! are not known. A symbol stands for at least 1: of an empty input nothing is said.

mod content;
mod moved;
mod shape;
mod view;

use std::collections::BTreeMap;

pub(crate) use self::view::view;

/// Most terms of one sum, and most symbols of one product; what has more is a symbol of its own.
const MAX_TERMS: usize = 16;

/// A number times symbols, in order, with repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    factor: i64,
    symbols: Vec<usize>,
}

type Terms = BTreeMap<Vec<usize>, i64>;

#[derive(Debug, Clone)]
struct Symbol {
    /// What it is where the graph's symbolic dimensions are as they were bound.
    value: i64,
    /// Of a sum: its terms.
    terms: Option<Terms>,
    /// Whether it is above 0 wherever the network runs.
    positive: bool,
    /// What it is never longer than.
    most: Option<Size>,
}

/// All symbols.
#[derive(Debug, Default)]
struct Sizes {
    symbols: Vec<Symbol>,
    known: BTreeMap<String, usize>,
}

impl Size {
    fn of(length: usize) -> Self {
        Self::number(i64::try_from(length).unwrap_or(i64::MAX))
    }

    fn number(factor: i64) -> Self {
        Self { factor, symbols: Vec::new() }
    }

    /// The number that it is for all sizes.
    fn fixed(&self) -> Option<i64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    fn is_open(&self) -> bool {
        !self.symbols.is_empty()
    }

    fn times(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Self::number(0));
        }
        let mut symbols = [&self.symbols[..], &other.symbols[..]].concat();
        symbols.sort_unstable();
        (symbols.len() <= MAX_TERMS).then_some(Self { factor, symbols })
    }

    fn product(sizes: &[Self]) -> Option<Self> {
        sizes.iter().try_fold(Self::number(1), |product, size| product.times(size))
    }

    /// Divided, where nothing is left over.
    fn over(&self, other: &Self) -> Option<Self> {
        if other.factor == 0 || self.factor.checked_rem(other.factor)? != 0 {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            let place = symbols.iter().position(|own| own == symbol)?;
            symbols.remove(place);
        }
        Some(Self { factor: self.factor.checked_div(other.factor)?, symbols })
    }
}

impl Sizes {
    fn symbol(&mut self, key: String, symbol: Symbol) -> Size {
        let next = self.symbols.len();
        let place = *self.known.entry(key).or_insert(next);
        if place == next {
            self.symbols.push(symbol);
        }
        Size { factor: 1, symbols: vec![place] }
    }

    /// A symbolic dimension.
    fn dimension(&mut self, index: usize, value: usize) -> Size {
        let value = Size::of(value).factor;
        let symbol = Symbol { value, terms: None, positive: true, most: None };
        self.symbol(format!("dimension {index}"), symbol)
    }

    /// What is always the same for the same key, and of which nothing else is known.
    fn made(&mut self, key: String, value: usize, positive: bool) -> Size {
        let value = Size::of(value).factor;
        self.symbol(key, Symbol { value, terms: None, positive, most: None })
    }

    /// What is never longer than a size.
    fn at_most(&mut self, key: String, value: usize, most: &Size) -> Size {
        let value = Size::of(value).factor;
        self.symbol(key, Symbol { value, terms: None, positive: false, most: Some(most.clone()) })
    }

    /// What is equal to nothing else.
    fn fresh(&mut self, value: usize) -> Size {
        let key = format!("fresh {}", self.symbols.len());
        self.made(key, value, false)
    }

    /// What it is where symbolic dimensions are as they were bound.
    fn value(&self, size: &Size) -> Option<i64> {
        size.symbols
            .iter()
            .try_fold(size.factor, |product, &symbol| product.checked_mul(self.symbols.get(symbol)?.value))
    }

    fn is_positive(&self, size: &Size) -> bool {
        size.factor > 0 && size.symbols.iter().all(|&symbol| self.symbols[symbol].positive)
    }

    /// The smallest that a product of symbolic dimensions can be, each of them being at least 1.
    fn least(&self, size: &Size) -> i64 {
        if self.is_positive(size) { size.factor } else { i64::MIN }
    }

    fn terms(&self, size: &Size) -> Terms {
        match (&size.symbols[..], size.factor) {
            (&[one], factor) if self.symbols[one].terms.is_some() => {
                let terms = self.symbols[one].terms.clone().unwrap_or_default();
                terms.into_iter().map(|(symbols, count)| (symbols, count.saturating_mul(factor))).collect()
            }
            _ => Terms::from([(size.symbols.clone(), size.factor)]),
        }
    }

    /// A sum, each part times a number.
    fn sum(&mut self, parts: &[(&Size, i64)]) -> Option<Size> {
        let mut all = Terms::new();
        for &(size, times) in parts {
            for (symbols, count) in self.terms(size) {
                let sum = all.entry(symbols).or_default();
                *sum = sum.checked_add(count.checked_mul(times)?)?;
            }
        }
        all.retain(|_, count| *count != 0);
        // What saturated on the way is no number that is computed with.
        if all.len() > MAX_TERMS || all.values().any(|count| count.unsigned_abs() > 1 << 40) {
            return None;
        }
        if all.len() < 2 {
            let only = all.into_iter().next();
            return Some(only.map_or(Size::number(0), |(symbols, factor)| Size { factor, symbols }));
        }
        let mut value = 0_i64;
        let mut positive = true;
        for (symbols, &factor) in &all {
            let term = Size { factor, symbols: symbols.clone() };
            value = value.checked_add(self.value(&term)?)?;
            positive &= self.is_positive(&term);
        }
        let symbol = Symbol { value, terms: Some(all.clone()), positive, most: None };
        Some(self.symbol(format!("sum {all:?}"), symbol))
    }

    /// What a size that is one symbol is at most, where that is known.
    fn most(&self, size: &Size) -> Option<Size> {
        match size.symbols[..] {
            [one] if size.factor == 1 => self.symbols[one].most.clone(),
            _ => None,
        }
    }

    /// Of two sizes that must be equal: the one of which more is known.
    fn same(&self, a: &Size, b: &Size) -> Size {
        if b.fixed().is_some() || self.most(a).as_ref() == Some(b) { b.clone() } else { a.clone() }
    }

    /// Of two axes that broadcast: how long the result is. `value`: how long it is as bound.
    fn join(&mut self, a: &Size, b: &Size, value: usize) -> Size {
        match (a.fixed(), b.fixed()) {
            _ if a == b => a.clone(),
            (Some(1), _) => b.clone(),
            (_, Some(1)) => a.clone(),
            // The other one is as long, or 1.
            (Some(_), _) => a.clone(),
            (_, Some(_)) => b.clone(),
            // What is never longer is as long, or 1.
            _ if self.most(b).as_ref() == Some(a) => a.clone(),
            _ if self.most(a).as_ref() == Some(b) => b.clone(),
            _ => {
                let mut keys = [format!("{a:?}"), format!("{b:?}")];
                keys.sort();
                let positive = self.is_positive(a) && self.is_positive(b);
                self.made(format!("join {keys:?}"), value, positive)
            }
        }
    }
}

#[cfg(test)]
mod tests;
