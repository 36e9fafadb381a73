//! Query parameters, decoded as HTML forms do.

use percent_encoding::percent_decode_str;

use super::reply::Failure;

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Drops parameters with a malformed escape, and refuses bytes that are not UTF-8: a name
    /// that does not survive decoding would address another file.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if sound_escapes(name) && sound_escapes(value) {
                pairs.push((decode(name)?, decode(value)?));
            }
        }
        Ok(Self { pairs })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Returns the names given, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }

    /// Returns a whole number within bounds, or the default when it is absent or none.
    pub(crate) fn number(&self, name: &str, default: usize, max: usize) -> usize {
        let given = self.get(name).and_then(|value| value.parse::<i128>().ok());
        match given.filter(|number| *number >= 1) {
            Some(number) => usize::try_from(number).unwrap_or(max).min(max),
            None => default,
        }
    }
}

fn sound_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|escape| {
        escape.len() >= 2 && escape.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
    })
}

fn decode(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Failure::bad_request("query is not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding() {
        let query = Query::parse("path=/a+b%2Bc&bad=%zz&x=1&x=2").unwrap();
        assert_eq!(query.get("path"), Some("/a b+c"));
        assert_eq!(query.get("bad"), None);
        assert_eq!(query.all("x").collect::<Vec<_>>(), ["1", "2"]);
        assert!(Query::parse("path=%ff%fe").is_err());
    }

    #[test]
    fn numbers_are_bounded() {
        let query = Query::parse("a=0&b=7&c=100000000000000000000&d=x").unwrap();
        let read = |name| query.number(name, 10, 100);
        assert_eq!([read("a"), read("b"), read("c"), read("d"), read("e")], [10, 7, 100, 10, 10]);
    }
}
