"""Headless Chromium for the tests of pages, and what every page must keep to."""

import json
import shutil

import pytest

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1400,900",
)


class Browser:
    """A browser that remembers what pages ask for and complain about."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1400, dark=False, scripts=True):
        """Opens a file at a width in pixels."""
        self.console()
        self.requests()
        call = self.driver.execute_cdp_cmd
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        call("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        call("Emulation.setDeviceMetricsOverride", size)
        call("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self.driver.get(path.resolve().as_uri())
        return self

    def js(self, code: str, *arguments):
        """Returns what a function body returns in the page."""
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> list[str]:
        """Returns the text of all elements, of hidden ones too."""
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())",
            selector,
        )

    def require_readable(self, path, selector: str) -> None:
        """Narrow, dark, printed and with scripts off a table is there, and axe finds no fault."""
        self.open(path, width=390, dark=True)
        assert self.accessibility() == []
        call = self.driver.execute_cdp_cmd
        call("Emulation.setEmulatedMedia", {"media": "print"})
        assert self.one(selector).is_displayed()
        call("Emulation.setEmulatedMedia", {"media": ""})
        self.open(path, scripts=False)
        assert self.one(selector).is_displayed()
        call("Emulation.setScriptExecutionDisabled", {"value": False})

    def until(self, code: str, seconds=10):
        """Waits until a function body returns something true, and returns that."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(
            lambda driver: driver.execute_script(code)
        )

    def drawn(self, count: int = 1) -> None:
        """Scrolls through the page until so many charts are drawn."""
        self.until(
            "const all = [...document.querySelectorAll('[data-chart]')];"
            "const waiting = all.filter(e => e.offsetParent && !e.querySelector('svg, canvas'));"
            "if (waiting.length) waiting[0].scrollIntoView();"
            f"return all.length - waiting.length >= {count}"
        )

    def console(self) -> list[str]:
        """Returns warnings and errors since the last call."""
        return [f"{line['level']} {line['message']}" for line in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Returns addresses asked for since the last call, but for data: and blob:.

        Nor do those of Chromium's own first tab count, which may still be loading (chrome:).
        """
        found = []
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [url for url in found if not url.startswith(("data:", "blob:", "chrome:"))]

    def require_sound(self, path) -> None:
        """A page asks for nothing but itself, complains about nothing, and fits its width."""
        assert set(self.requests()) <= {path.resolve().as_uri()}
        assert self.console() == []
        width = self.js("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], f"the page scrolls sideways: {width}"

    def accessibility(self) -> list[str]:
        """Returns what axe-core finds fault with (WCAG 2 A and AA), one line each."""
        from axe_core_python.selenium import Axe

        found = Axe().run(self.driver, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
        return [
            f"{fault['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for fault in found["violations"]
            for node in fault["nodes"][:3]
        ]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser; tests that need one are skipped where Chromium or Selenium is missing."""
    if _CHROMIUM is None or _DRIVER is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for option in (*_QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(_DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield Browser(driver)
    driver.quit()
