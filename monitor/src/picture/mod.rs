//! The map as a picture for a README or a ticket: DOT, Mermaid, SVG. Edges in, text out: pure, and
//! the same edges are always the same text. What would be too much to read is drawn as one node and
//! said so; nothing that waits for a decision is ever hidden. Asks no agent, writes no file, and
//! does not lay out graphs itself: a layout crate does.

mod dot;
mod layout;
mod merge;
mod mermaid;
mod scene;
mod svg;

use monitor_core::engine::EdgeView;
use monitor_core::pattern::Pattern;

use self::scene::Scene;

pub use self::layout::LayoutError;

/// What a picture is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Dot,
    Mermaid,
    Svg,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("lay out the map; --format dot leaves that to Graphviz")]
    Layout(#[from] LayoutError),
    #[error(
        "the map is too large for a picture in this format: narrow it with --focus, like --focus compose:shop/web"
    )]
    TooLarge,
}

/// Draws the map. What one of `expand` matches is drawn one by one, however much that is, as far as
/// the language can bear it.
///
/// # Errors
/// The picture cannot be laid out, or is too large for its language.
pub fn draw(
    views: &[EdgeView],
    language: Language,
    expand: &[Pattern],
) -> Result<String, PictureError> {
    match write(&Scene::new(views, expand), language) {
        Err(PictureError::TooLarge) if !expand.is_empty() => {
            let mut scene = Scene::new(views, &[]);
            scene.notes.insert(0, "too much to draw: --expand was not followed".to_owned());
            write(&scene, language)
        }
        drawn => drawn,
    }
}

fn write(scene: &Scene, language: Language) -> Result<String, PictureError> {
    match language {
        Language::Dot => Ok(dot::text(scene)),
        Language::Mermaid => mermaid::text(scene).ok_or(PictureError::TooLarge),
        Language::Svg => svg::text(scene),
    }
}

#[cfg(test)]
mod tests;
