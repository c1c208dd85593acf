//! `when:` expressions and `{{ templates }}`: one engine for both, strict, without any way to reach a file.
//!
//! The language is that of minijinja, which technicians know from Ansible. Three names exist: `machine` (facts), `vars`
//! (variables) and `run`. A name that does not exist is an error, never an empty string.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use serde_json::{Map, Value};

/// Enough for any condition a person writes; a loop that a template builds by mistake ends here.
const FUEL: u64 = 200_000;
/// Bytes of a rendered template: a file that a step writes, not a disk image.
const RENDERED_BYTES_MAX: usize = 1 << 20;

/// What expressions see.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scope {
    pub machine: Value,
    pub vars: Map<String, Value>,
    pub run: Value,
}

/// Names at the top of a `Scope`.
pub const NAMES: [&str; 3] = ["machine", "vars", "run"];

#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    #[error("`{text}` does not parse: {message}")]
    Syntax { text: String, message: String },
    #[error("`{text}` cannot be computed: {message}")]
    Evaluate { text: String, message: String },
    #[error("the text made from a template has {bytes} bytes, at most {RENDERED_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
}

/// Whether the condition holds.
pub fn holds(expression: &str, scope: &Scope) -> Result<bool, ConditionError> {
    let environment = environment();
    let compiled = environment.compile_expression(expression).map_err(|error| syntax(expression, &error))?;
    let value = compiled.eval(minijinja::Value::from(Serde(scope))).map_err(|error| failed(expression, &error))?;
    if value.is_undefined() {
        return Err(ConditionError::Evaluate {
            text: expression.to_owned(),
            message: "it names something that does not exist".into(),
        });
    }
    Ok(value.is_true())
}

/// The text with its templates replaced. A text that is one expression and nothing else (`{{ vars.count }}`) keeps the
/// expression's type; any other yields a string.
pub fn render(text: &str, scope: &Scope) -> Result<Value, ConditionError> {
    if !is_template(text) {
        return Ok(Value::from(text));
    }
    let environment = environment();
    if let Some(expression) = single_expression(text) {
        let context = minijinja::Value::from(Serde(scope));
        let compiled = environment.compile_expression(expression).map_err(|error| syntax(text, &error))?;
        let value = compiled.eval(context).map_err(|error| failed(text, &error))?;
        if value.is_undefined() {
            return Err(ConditionError::Evaluate {
                text: text.to_owned(),
                message: "it names something that does not exist".into(),
            });
        }
        return serde_json::to_value(value)
            .map_err(|error| ConditionError::Evaluate { text: text.to_owned(), message: error.to_string() });
    }
    rendered(&environment, text, scope)
}

fn rendered(environment: &Environment<'_>, text: &str, scope: &Scope) -> Result<Value, ConditionError> {
    let template = environment.template_from_str(text).map_err(|error| syntax(text, &error))?;
    let context = minijinja::Value::from(Serde(scope));
    let rendered = template.render(context).map_err(|error| failed(text, &error))?;
    if rendered.len() > RENDERED_BYTES_MAX {
        return Err(ConditionError::TooLong { bytes: rendered.len() });
    }
    Ok(Value::from(rendered))
}

/// A document of XML: the same for a text in which values stand, each written so that it stays text. `{{ value | safe }}` is
/// XML itself.
pub fn render_xml(text: &str, scope: &Scope) -> Result<Value, ConditionError> {
    let mut environment = environment();
    // The characters that HTML has escaped are those of XML.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    rendered(&environment, text, scope)
}

/// `render` for every string in `value`.
pub fn render_all(value: &Value, scope: &Scope) -> Result<Value, ConditionError> {
    Ok(match value {
        Value::String(text) => render(text, scope)?,
        Value::Array(list) => {
            Value::Array(list.iter().map(|value| render_all(value, scope)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| Ok((key.clone(), render_all(value, scope)?)))
                .collect::<Result<_, ConditionError>>()?,
        ),
        other => other.clone(),
    })
}

pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// Names that an expression uses and does not define, nested ones with dots (`vars.hostname`).
pub fn names_in_expression(expression: &str) -> Result<Vec<String>, ConditionError> {
    let environment = environment();
    let compiled = environment.compile_expression(expression).map_err(|error| syntax(expression, &error))?;
    Ok(sorted(compiled.undeclared_variables(true)))
}

/// The same for a text with templates.
pub fn names_in_template(text: &str) -> Result<Vec<String>, ConditionError> {
    let environment = environment();
    let template = environment.template_from_str(text).map_err(|error| syntax(text, &error))?;
    Ok(sorted(template.undeclared_variables(true)))
}

/// All names that the templates in a value use.
pub fn names_in_all(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        match value {
            Value::String(text) if is_template(text) => names.extend(names_in_template(text).unwrap_or_default()),
            Value::Array(list) => todo.extend(list),
            Value::Object(map) => todo.extend(map.values()),
            _ => {}
        }
    }
    names
}

fn sorted(names: std::collections::HashSet<String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort();
    names
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(60);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let mut syntax = SyntaxConfig::builder();
    environment.set_syntax(syntax.keep_trailing_newline(true).trim_blocks(true).build().unwrap_or_default());
    environment
}

/// `{{ x }}` and nothing around it.
fn single_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.starts_with('-') && !inner.ends_with('-'))
        .then_some(inner.trim())
}

fn syntax(text: &str, error: &Error) -> ConditionError {
    ConditionError::Syntax { text: shortened(text), message: plain(error) }
}

fn failed(text: &str, error: &Error) -> ConditionError {
    let message = match error.kind() {
        ErrorKind::UndefinedError => "it names something that does not exist".to_owned(),
        ErrorKind::OutOfFuel => "it does not come to an end".to_owned(),
        _ => plain(error),
    };
    ConditionError::Evaluate { text: shortened(text), message }
}

/// Without the position within the expression, which means nothing beside that in the document.
fn plain(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > 80 { line.chars().take(77).chain("...".chars()).collect() } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope() -> Scope {
        Scope {
            machine: json!({"firmware": "uefi", "memory_bytes": 8_589_934_592u64, "disks": [{"bytes": 500}], "serial": null}),
            vars: json!({"count": 3, "name": "ws"}).as_object().unwrap().clone(),
            run: json!({"id": "run-1"}),
        }
    }

    #[test]
    fn conditions_are_computed_over_machine_vars_and_run() {
        for (text, expect) in [
            ("machine.firmware == 'uefi'", true),
            ("machine.memory_bytes >= 4 * 1024**3 and vars.count in [1, 3]", true),
            ("machine.disks | length > 1", false),
            ("machine.serial is none", true),
            ("not (run.id.startswith('run'))", false),
            ("vars.other is defined", false),
        ] {
            match holds(text, &scope()) {
                Ok(value) => assert_eq!(value, expect, "{text}"),
                Err(error) => assert!(text.contains("startswith"), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn names_that_do_not_exist_are_errors_and_never_empty() {
        for text in ["vars.nmae == 'x'", "vars.nmae", "machne.firmware == 'uefi'"] {
            assert!(holds(text, &scope()).is_err(), "{text}");
        }
        for text in ["a {{ vars.nmae }}", "{{ vars.nmae }}", "{{ vars.count"] {
            assert!(render(text, &scope()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lone_expression_keeps_its_type_and_a_mixed_text_is_a_string() {
        assert_eq!(render("{{ vars.count }}", &scope()).unwrap(), json!(3));
        assert_eq!(render("{{ vars.name }}-{{ vars.count }}", &scope()).unwrap(), json!("ws-3"));
        assert_eq!(render("plain\n", &scope()).unwrap(), json!("plain\n"));
        assert_eq!(
            render("{{ vars.name }}\n{% if vars.count > 1 %}many\n{% endif %}", &scope()).unwrap(),
            json!("ws\nmany\n")
        );
    }

    #[test]
    fn values_in_a_document_of_xml_stay_text() {
        let mut scope = scope();
        scope.vars.insert("owner".into(), "R&D <\"x'>".into());
        let made = render_xml("<a b=\"{{ vars.owner }}\">{{ vars.owner }}/{{ '<b/>' | safe }}</a>", &scope).unwrap();
        let escaped = "R&amp;D &lt;&quot;x&#x27;&gt;";
        assert_eq!(made, json!(format!("<a b=\"{escaped}\">{escaped}/<b/></a>")));
        assert_eq!(render_xml("{{ vars.count }}", &scope).unwrap(), json!("3"));
        assert!(render_xml("{{ vars.nmae }}", &scope).is_err());
    }

    #[test]
    fn an_endless_template_is_stopped() {
        let text = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(render(text, &scope()).is_err());
        assert!(holds(&"(".repeat(5000), &scope()).is_err());
    }
}
