//! One plot with all curves: a panel for each network, and one more where statistics were computed anew.

use fedbasin_client::chart::{Curve, Panel};

use super::outcome::{Comparison, Method, Path, Studied};

/// Draws it.
pub(super) fn svg(comparison: &Comparison) -> anyhow::Result<String> {
    let mut panels = Vec::new();
    for studied in &comparison.networks {
        panels.push(panel(studied, &studied.network, |method| Some(&method.merged)));
        if studied.batch_norm {
            let title = format!("{}, statistics anew", studied.network);
            panels.push(panel(studied, &title, |method| method.anew.as_ref()));
        }
    }
    fedbasin_client::chart::svg(&panels).map_err(anyhow::Error::msg)
}

fn panel(studied: &Studied, title: &str, of: impl Fn(&Method) -> Option<&Path>) -> Panel {
    let curve = |method: &Method| {
        let path = of(method)?;
        let name = format!("{} ({:.3})", method.name, path.barrier_over_chord);
        Some(Curve { name, losses: path.losses.clone() })
    };
    Panel {
        title: title.to_owned(),
        x: "0 = site 0, 1 = site 1; in brackets: barrier over the chord".into(),
        y: "mean cross-entropy on the test images".into(),
        curves: studied.methods.iter().filter_map(curve).collect(),
    }
}
