//! Every page once: nothing that can be operated is without a name, nothing is wider than the screen, axe-core finds nothing.

use std::fs;
use std::path::PathBuf;

use crate::browser::Browser;
use crate::oracle;

/// A laptop, a phone, a screen on the wall.
const SIZES: [(&str, u32, u32); 3] = [("laptop", 1366, 768), ("phone", 390, 844), ("wall", 1920, 1080)];
/// Of a picture; what is further down is not kept.
const PICTURE_HEIGHT: u32 = 2400;

/// REMINT_PICTURES names the folder that keeps pictures, in both themes and each size.
pub(crate) struct Pictures(Option<PathBuf>);

impl Pictures {
    pub(crate) fn open() -> Pictures {
        let folder = std::env::var_os("REMINT_PICTURES").map(PathBuf::from);
        folder.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        Pictures(folder)
    }

    pub(crate) fn take(&mut self, browser: &mut Browser, name: &str) {
        let Some(folder) = &self.0 else { return };
        for theme in ["light", "dark"] {
            browser.look(1366, 768, theme);
            fs::write(folder.join(format!("{name}-screen-{theme}.png")), browser.screen()).unwrap();
            for (size, width, height) in SIZES {
                browser.look(width, height, theme);
                // What sticks to the screen is as high as the screen.
                let whole = browser.eval("document.documentElement.scrollHeight").as_u64().unwrap();
                let whole = u32::try_from(whole).unwrap().clamp(height, PICTURE_HEIGHT);
                browser.look(width, whole, theme);
                let picture = browser.picture(width, whole);
                fs::write(folder.join(format!("{name}-{size}-{theme}.png")), picture).unwrap();
            }
        }
        browser.look(1366, 768, "light");
    }

    /// What is on the screen when the page is scrolled to what has this identifier.
    fn take_at(&self, browser: &mut Browser, name: &str, identifier: &str) {
        let Some(folder) = &self.0 else { return };
        for theme in ["light", "dark"] {
            browser.look(1366, 768, theme);
            browser.eval(&format!("document.getElementById('{identifier}').scrollIntoView()"));
            fs::write(folder.join(format!("{name}-screen-{theme}.png")), browser.screen()).unwrap();
        }
    }
}

pub(crate) fn every_page(browser: &mut Browser, machine: &str, pictures: &mut Pictures) {
    let axe = oracle("axe.min.js").map(|path| fs::read_to_string(path).unwrap());
    if axe.is_none() {
        println!("skipped: barriers in the console's pages: axe-core is not there (scripts/test fetches it from npm)");
    }
    for (name, path) in &pages(browser, machine) {
        browser.go(path);
        let title = browser.eval("document.title").as_str().unwrap_or_default().to_owned();
        assert!(!title.contains("did not work"), "{path}: {title}");
        let nameless = browser.nameless();
        assert!(nameless.is_empty(), "{path}: {nameless:?}");
        for (theme, (size, width, height)) in [("light", SIZES[0]), ("light", SIZES[2]), ("dark", SIZES[1])] {
            browser.look(width, height, theme);
            let wide = browser.eval("document.documentElement.scrollWidth - window.innerWidth");
            assert!(wide.as_i64().unwrap() <= 0, "{path} is {wide} pixels wider than a {size}");
            let hidden = browser.eval(CUT_OFF);
            assert!(hidden.as_array().unwrap().is_empty(), "{path}: cut off on a {size}: {hidden}");
        }
        if let Some(axe) = &axe {
            for (theme, (_, width, height)) in [("dark", SIZES[1]), ("light", SIZES[0])] {
                browser.look(width, height, theme);
                let barriers = browser.barriers(axe);
                assert!(barriers.is_empty(), "{path} in {theme}: {barriers:#?}");
            }
        }
        pictures.take(browser, name);
        if *name == "machine" {
            pictures.take_at(browser, "machine-hardware", "hardware");
        }
    }
}

/// What reaches beyond the right edge of the screen within nothing that scrolls: nobody gets to see it.
const CUT_OFF: &str = "[...document.querySelectorAll('main *')].filter((element) => {
    const box = element.getBoundingClientRect();
    if (box.width === 0 || box.right <= window.innerWidth + 1) return false;
    for (let at = element.parentElement; at; at = at.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(at).overflowX) || at.nodeName === 'svg') return false;
    return true;
  }).map((element) => element.outerHTML.slice(0, 120))";

fn pages(browser: &mut Browser, machine: &str) -> Vec<(&'static str, String)> {
    let run = browser.eval(
        "fetch('/api/v1/runs').then((a) => a.json()).then((all) => all.find((run) => run.state === 'failed').id)",
    );
    let deployment = browser.eval("fetch('/api/v1/deployments').then((a) => a.json()).then((all) => all[0].id)");
    let named = |path: &str, name: &serde_json::Value| format!("{path}{}", name.as_str().unwrap());
    vec![
        ("overview", "/".to_owned()),
        ("room", "/rooms".to_owned()),
        ("arrange", "/rooms?arrange=1".to_owned()),
        ("machines", "/machines".to_owned()),
        ("machine", format!("/machines/{machine}")),
        ("approvals", "/approvals".to_owned()),
        ("boots", "/boots".to_owned()),
        ("deployments", "/deployments".to_owned()),
        ("deployment", named("/deployments/", &deployment)),
        ("new-deployment", "/deployments/new".to_owned()),
        ("new-deployment-how", "/deployments/new?sequence=wipe-and-greet&collection=all".to_owned()),
        ("runs", "/runs".to_owned()),
        ("run", named("/runs/", &run)),
        ("sequences", "/sequences".to_owned()),
        ("sequence", format!("/sequences/wipe-and-greet?machine={machine}")),
        ("editor", "/editor?sequence=wipe-and-greet".to_owned()),
        ("images", "/images".to_owned()),
        ("image", "/images/debian-12@2?with=debian-12@1".to_owned()),
        ("collections", "/collections".to_owned()),
        ("collection", "/collections/all".to_owned()),
        ("software", "/software".to_owned()),
        (
            "inventory",
            "/inventory?sql=SELECT+machine,+disk,+partition,+filesystem,+label,+bytes+FROM+partitions+WHERE+bytes+>+1e9".to_owned(),
        ),
        ("reports", "/reports".to_owned()),
        ("audit", "/audit".to_owned()),
        ("settings", "/settings".to_owned()),
    ]
}
