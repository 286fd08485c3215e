//! Finds the paths that a source text mentions.

/// A path in source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Line, from 1.
    pub line: usize,
    /// The path, `std::time::Instant` for instance; also the bare word `async`.
    pub path: String,
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Step,
    Other(char),
}

/// All paths: those of `use` trees, each branch written out, and those in code that have at least two parts.
#[must_use]
pub fn mentions(source: &str) -> Vec<Mention> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = &tokens[at];
        match token {
            Token::Word(word) if word == "use" => at = use_tree(&tokens, at + 1, "", &mut found),
            Token::Word(word) if word == "async" => {
                found.push(Mention { line: *line, path: "async".into() });
                at += 1;
            }
            Token::Word(word) => {
                let mut path = word.clone();
                at += 1;
                while let (Some((_, Token::Step)), Some((_, Token::Word(next)))) =
                    (tokens.get(at), tokens.get(at + 1))
                {
                    path = format!("{path}::{next}");
                    at += 2;
                }
                if path.contains("::") {
                    found.push(Mention { line: *line, path });
                }
            }
            _ => at += 1,
        }
    }
    found
}

/// The lines, from 1, that hold `unsafe` code, or loosen the lint against it.
#[must_use]
pub fn unsafe_lines(source: &str) -> Vec<usize> {
    let tokens = tokens(source);
    let word =
        |at: usize, word: &str| matches!(tokens.get(at), Some((_, Token::Word(found))) if found == word);
    let loosens =
        |at: usize| at >= 2 && word(at, "unsafe_code") && !word(at - 2, "forbid") && !word(at - 2, "deny");
    (0..tokens.len()).filter(|at| word(*at, "unsafe") || loosens(*at)).map(|at| tokens[at].0).collect()
}

/// Reads one tree from `at` on and returns where it ends: at `,`, `}` or after `;`.
fn use_tree(tokens: &[(usize, Token)], mut at: usize, prefix: &str, found: &mut Vec<Mention>) -> usize {
    let mut path = prefix.to_owned();
    let mut line = tokens.get(at).map_or(0, |(line, _)| *line);
    while let Some((here, token)) = tokens.get(at) {
        match token {
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(word) => {
                if word != "self" || path.is_empty() {
                    path = if path.is_empty() { word.clone() } else { format!("{path}::{word}") };
                }
                line = *here;
                at += 1;
            }
            Token::Other('{') => {
                at += 1;
                while !matches!(tokens.get(at), None | Some((_, Token::Other('}')))) {
                    at = use_tree(tokens, at, &path, found);
                    if matches!(tokens.get(at), Some((_, Token::Other(',')))) {
                        at += 1;
                    }
                }
                // Its branches were the mentions; go on behind the brace and whatever ends the tree.
                at += 1;
                return if matches!(tokens.get(at), Some((_, Token::Other(';')))) { at + 1 } else { at };
            }
            Token::Other(',' | '}') => break,
            Token::Other(';') => {
                at += 1;
                break;
            }
            Token::Step | Token::Other(_) => at += 1,
        }
    }
    found.push(Mention { line, path });
    at
}

fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < text.len() {
        let end = match text[at] {
            '/' if text.get(at + 1) == Some(&'/') => skip_until(&text, at, |rest| rest[0] == '\n'),
            '/' if text.get(at + 1) == Some(&'*') => {
                skip_until(&text, at + 2, |rest| rest.starts_with(&['*', '/'])) + 2
            }
            '"' => string_end(&text, at + 1),
            'r' | 'b' | 'c' if raw_string(&text, at).is_some() => raw_string(&text, at).unwrap_or(at + 1),
            '\'' => char_end(&text, at),
            ':' if text.get(at + 1) == Some(&':') => {
                tokens.push((line, Token::Step));
                at + 2
            }
            first if first.is_alphabetic() || first == '_' => {
                let end = skip_until(&text, at, |rest| !rest[0].is_alphanumeric() && rest[0] != '_');
                tokens.push((line, Token::Word(text[at..end].iter().collect())));
                end
            }
            first => {
                if !first.is_whitespace() {
                    tokens.push((line, Token::Other(first)));
                }
                at + 1
            }
        };
        let end = end.min(text.len());
        line += text[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn skip_until(text: &[char], mut at: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    while at < text.len() && !stop(&text[at..]) {
        at += 1;
    }
    at
}

/// Behind the closing quote of a string whose first character is at `at`.
fn string_end(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Behind a raw string like `r#"…"#` or `br"…"` that begins at `at`; `None` where none does.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    // Not the end of a longer word.
    if at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') {
        return None;
    }
    let r = if text[at] == 'r' { at } else { at + 1 };
    if text.get(r) != Some(&'r') {
        return None;
    }
    let hashes = text[r + 1..].iter().take_while(|c| **c == '#').count();
    if text.get(r + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    Some(skip_until(text, r + 2 + hashes, |rest| rest.starts_with(&close)) + close.len())
}

/// Behind a character literal, or behind the quote alone where it begins a lifetime.
fn char_end(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => skip_until(text, at + 3, |rest| rest[0] == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}
