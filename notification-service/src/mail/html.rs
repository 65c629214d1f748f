//! A mail's page: what the text says, in a table. Pure.
//!
//! Mail programs know tables and styles on the elements themselves, and little else. It names no colour
//! of a letter or a ground, which the program chooses by its own light or dark, but for a line and a
//! stripe that are seen on both; and nothing that would have to be fetched.

use std::fmt::Write as _;

use super::Content;

/// Letters as the device has them.
const FONT: &str =
    "font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
/// Between two rows.
const LINE: &str = "border-top:1px solid #8a8f98";

/// The whole document, with CRLF at the ends of its lines, none of which begins with a value.
pub(super) fn page(content: &Content<'_>) -> String {
    let Content { subject, sentence, stripe, .. } = content;
    let mut rows = String::new();
    for (name, value) in content.rows() {
        let weight = if name == "Total" { "bold" } else { "normal" };
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<tr><th scope=\"row\" style=\"{LINE};padding:10px 16px 10px 0;text-align:left;\
             vertical-align:top;font-weight:normal\">{name}</th>\r\n\
             <td style=\"{LINE};padding:10px 0;text-align:right;font-weight:{weight};\
             word-break:break-word;overflow-wrap:anywhere\">{}</td></tr>\r\n",
            escaped(&value)
        );
    }
    format!(
        "<!DOCTYPE html>\r\n\
         <html lang=\"en\" style=\"color-scheme:light dark\">\r\n\
         <head>\r\n\
         <meta charset=\"utf-8\">\r\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\r\n\
         <meta name=\"color-scheme\" content=\"light dark\">\r\n\
         <meta name=\"supported-color-schemes\" content=\"light dark\">\r\n\
         <title>{subject}</title>\r\n\
         </head>\r\n\
         <body style=\"margin:0;padding:0\">\r\n\
         <table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\">\r\n\
         <tr><td align=\"center\" style=\"padding:24px 16px\">\r\n\
         <table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" \
         style=\"max-width:560px;{FONT};font-size:16px;line-height:1.5;text-align:left\">\r\n\
         <tr><td style=\"border-top:4px solid {stripe};padding:20px 0 0\">\r\n\
         <h1 style=\"margin:0 0 16px;font-size:24px;line-height:1.25\">{subject}</h1>\r\n\
         <p style=\"margin:0 0 12px\">Hello,</p>\r\n\
         <p style=\"margin:0 0 20px\">{sentence}</p>\r\n\
         <table width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" \
         style=\"border-collapse:collapse;{FONT};font-size:16px;line-height:1.5\">\r\n\
         {rows}\
         </table>\r\n\
         </td></tr>\r\n\
         </table>\r\n\
         </td></tr>\r\n\
         </table>\r\n\
         </body>\r\n\
         </html>\r\n"
    )
}

/// A value as text of a page, in an element or between quotes, whatever it is.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            other => text.push(other),
        }
    }
    text
}
