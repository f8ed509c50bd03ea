"""The report in headless Chromium: it draws, its keys work, and its console is silent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import ipivrs
from chromium import BROWSER, Page, chromium
from ipivrs.reports.page import page as page_of
from ipivrs.reports.telling import facts_and_story
from shipped import X2APIC_BOOT, replay
from stories import HOSTILE, hostile_recording, synthetic_story

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

PNG = b"\x89PNG"
SAID = "document.getElementById('said').textContent"
# Colours in the middle of the lanes: a canvas on which nothing was drawn has one.
COLOURS = """(() => {
    const canvas = document.getElementById("lanes");
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(data.buffer)).size;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """A page whose console has to stay silent, and which asks for nothing but its file."""
    browser.complaints.clear()
    browser.requests.clear()
    yield browser
    browser.drawn()
    assert browser.complaints == []
    assert all(address.startswith("file://") for address in browser.requests)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "storm.html"
    vm = ipivrs.VM.model_validate({"vcpus": 6, "workload": {"name": "storm", "rounds": 100}})
    ipivrs.Scenario(vm=[vm], title="storm").run(engine="virtual-time", log=1_000_000).report(out)
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_scenario_is_drawn(page: Page, storm: Path, tmp_path: Path, scheme: str) -> None:
    page.open(storm, scheme=scheme)
    assert page.value("document.title") == "storm - ipivrs"
    assert page.value(COLOURS) > 5
    assert page.value("document.querySelectorAll('svg').length") == 3
    assert page.picture(tmp_path / "whole.png").startswith(PNG)


def test_a_recording_is_drawn(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    replay(X2APIC_BOOT).report(out)
    page.open(out)
    assert page.value(SAID).startswith("1,657 interrupts in 411.819 s")
    assert page.value(COLOURS) > 4


def test_it_can_be_used_with_keys_alone(page: Page, storm: Path) -> None:
    page.open(storm)
    page.value("document.getElementById('lanes').focus()")
    whole = page.value(SAID)
    page.press("+")
    window = [float(page.value(f"document.getElementById('{name}').value")) for name in ("from", "to")]
    assert 0 < window[0] < window[1]
    assert page.value(SAID) != whole
    page.press("ArrowLeft")
    assert float(page.value("document.getElementById('from').value")) < window[0]
    page.press("Home")
    assert page.value(SAID) == whole
    page.press("n")
    first = page.value(SAID)
    assert "vCPU" in first
    assert "sent at cycle" in first
    page.press("n")
    assert page.value(SAID) != first
    page.press("p")
    assert page.value(SAID) == first
    page.press("Escape")
    assert page.value(SAID) == whole


def test_buttons_and_fields_choose_the_window(page: Page, storm: Path) -> None:
    page.open(storm)
    page.value("document.querySelector('[data-does=busiest]').click()")
    page.drawn()
    busiest = page.value(SAID)
    assert busiest.startswith("2")
    page.value(
        "for (const [id, value] of [['from', 0], ['to', 1e9]]) {"
        " const field = document.getElementById(id); field.value = value; }"
        " document.getElementById('to').dispatchEvent(new Event('change'))"
    )
    page.drawn()
    assert page.value(SAID) != busiest


def test_names_from_a_file_are_text(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    ipivrs.run(hostile_recording(tmp_path)).report(out)
    page.open(out)
    assert page.value("document.images.length") == 0
    assert HOSTILE in page.value("document.body.innerText")
    page.value("document.getElementById('lanes').focus()")
    page.press("n")
    assert HOSTILE in page.value(SAID)


def test_its_policy_stops_what_would_slip_through(browser: Page, storm: Path) -> None:
    browser.complaints.clear()
    browser.open(storm)
    image = '<img src="https://example.com/x.png" onerror="window.bad = 1">'
    browser.value(f"document.body.insertAdjacentHTML('beforeend', '{image}')")
    browser.drawn()
    assert browser.value("window.bad === undefined")
    assert any("Content Security Policy" in text or "content security policy" in text for text in browser.complaints)


def test_a_million_interrupts(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    story = synthetic_story(1_000_000, slices=200_000)
    out.write_text(page_of(facts_and_story(replay(X2APIC_BOOT))[0], story), encoding="utf-8")
    assert out.stat().st_size < 15_000_000
    page.open(out)
    assert page.value(SAID).startswith("1,000,000 interrupts")
    for _ in range(10):
        page.value("document.querySelector('[data-does=in]').click()")
        page.drawn()
    assert "too many" not in page.value(SAID)
    assert page.value(COLOURS) > 5


def test_on_threads_it_is_a_page_without_a_script(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    vm = ipivrs.VM.model_validate({"vcpus": 2, "workload": {"name": "ping", "rounds": 10}})
    ipivrs.Scenario(vm=[vm]).run().report(out)
    page.open(out)
    assert page.value("document.scripts.length") == 0
    assert "keeps no log" in page.value("document.body.innerText")


def test_on_paper_it_is_light_and_has_no_tools(page: Page, storm: Path) -> None:
    page.open(storm, scheme="dark")
    pdf = page.call("Page.printToPDF")["data"]
    assert len(pdf) > 10_000
    page.drawn()
    assert page.value("document.documentElement.className") == ""
