//! Tables that scroll within a page, and stand row by row on a narrow one.

use maud::{Markup, html};

/// A column's name, and what is in it.
pub(super) enum Column<'a> {
    Text(&'a str),
    Number(&'a str),
    /// What needs no name for who sees it.
    Unseen(&'a str),
}

/// A table: what it is called, what it lists, its columns and its rows, whose cells name their column as `data-name`.
pub(super) fn table(name: &str, caption: &str, columns: &[Column<'_>], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label={ (name) ", a table" } {
            table.stack {
                caption.unseen { (caption) }
                thead { tr {
                    @for column in columns {
                        @match column {
                            Column::Text(name) => { th scope="col" { (name) } }
                            Column::Number(name) => { th.number scope="col" { (name) } }
                            Column::Unseen(name) => { th scope="col" { span.unseen { (name) } } }
                        }
                    }
                } }
                tbody { (rows) }
            }
        }
    }
}
