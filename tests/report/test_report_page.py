import base64
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from record_factory import make_failed, make_record, make_sweep

from pqbench.core.margins import Margins
from pqbench.report.answer import answers
from pqbench.report.methods import methods_paragraphs
from pqbench.report.references import keys_in
from pqbench.report.write import write_report

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>&amp;"


def data_of(page):
    text = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    return json.loads(text)


def test_page_holds_every_experiment_and_failure(tmp_path):
    records = make_sweep()
    write_report(records, tmp_path, plots=False)
    data = data_of((tmp_path / "report.html").read_text())
    assert len(data["rows"]) == len(records)
    failed = [r for r in records if r.error]
    assert sorted(f["message"] for f in data["failures"]) == sorted(r.error.message for r in failed)
    assert all(isinstance(row["env"], int) for row in data["rows"])
    assert "http" not in (tmp_path / "report.html").read_text().replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )


def test_page_escapes_what_records_say(tmp_path):
    record = make_failed(message=HOSTILE, hint=HOSTILE)
    record.experiment.model = HOSTILE
    write_report([make_record(), record], tmp_path, plots=False)
    page = (tmp_path / "report.html").read_text()
    assert "<script>window.hacked" not in page
    assert data_of(page)["failures"][0]["message"] == HOSTILE


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_page_sorts_and_hovers_offline_without_an_error(tmp_path):
    from screenshot import Browser

    hostile = make_failed(message=HOSTILE)
    write_report([*make_sweep(), hostile], tmp_path, plots=False)
    watch = (
        "window.seen=[];addEventListener('error',e=>seen.push(e.message));"
        "document.addEventListener('securitypolicyviolation',e=>seen.push(e.violatedDirective));"
        "for(const k of ['error','warn'])console[k]=(...a)=>seen.push(a.join(' '))"
    )
    head = "[...document.querySelectorAll('#results th button')]"
    cells = (
        f"(()=>{{const i={head}.findIndex(b=>b.textContent.startsWith('p50'));{head}[i].click();"
        "return [...document.querySelectorAll('#results tbody tr')]"
        ".map(r=>parseFloat(r.cells[i].firstChild.textContent)).filter(v=>!isNaN(v))})()"
    )
    with Browser(1200, 900, 60) as browser:
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.call("Network.enable")
        browser.call("Network.emulateNetworkConditions", offline)
        browser.call("Page.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", {"source": watch})
        browser.call("Page.navigate", {"url": (tmp_path / "report.html").as_uri()})
        end = time.monotonic() + 20
        while not browser.run("document.querySelectorAll('.pt').length"):
            assert time.monotonic() < end
            time.sleep(0.2)
        up, down = browser.run(cells), browser.run(cells)
        assert up == sorted(up)
        assert down == sorted(down, reverse=True)
        assert len(up) > 5
        point = browser.run(
            "(()=>{const b=document.querySelector('.pt').getBoundingClientRect();"
            "return [b.x+b.width/2,b.y+b.height/2]})()"
        )
        move = {"type": "mouseMoved", "x": point[0], "y": point[1]}
        browser.call("Input.dispatchMouseEvent", move)
        time.sleep(0.2)
        assert "top-1:" in browser.run(
            "(()=>{const t=document.getElementById('tip');"
            "return t.style.display==='block'?t.textContent:''})()"
        )
        ties = [11.25, 11.75, 69.25, -1.25, 11.35, 0.04]  # as Python rounds them
        assert browser.run(f"{ties}.map(v => fix(v, 1))") == [f"{v:.1f}" for v in ties]
        assert browser.run("window.hacked === undefined")
        assert browser.run("seen") == []
        shot = browser.call("Page.captureScreenshot", {"format": "png"})["data"]
        assert len(base64.b64decode(shot)) > 10_000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles_without_an_edit(tmp_path):
    hostile = make_failed(message="50 % of #1 & $x_{2}$ ~ ^ \\ ≥ 3 µs … 日本 <b>")
    records = [*make_sweep(), hostile]
    write_report(records, tmp_path, answered=answers(records))
    tex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    for command in (tex, ["bibtex", "report"], tex, tex):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
        if "not found" in done.stdout and "siunitx" in done.stdout:
            pytest.skip("this TeX has no siunitx")
        assert done.returncode == 0, done.stdout[-3000:]
    assert "undefined" not in done.stdout
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_methods_name_every_commit_that_measured():
    records = make_sweep()
    assert "pqbench at commit 0123456789." in "\n".join(methods_paragraphs(records))
    other = {"commit": "f" * 40, "dirty": True}
    records[-1].environment = {**records[-1].environment, "git": other}
    text = "\n".join(methods_paragraphs(records))
    assert "pqbench at commits 0123456789 and ffffffffff with uncommitted changes." in text


def test_methods_name_what_was_measured():
    text = "\n".join(methods_paragraphs(make_sweep()))
    for part in (
        "MobileNetV3-Large",
        "ELPV (val)",
        "NNCF INT8",
        "OpenVINO",
        "256 images",
        "525 samples",
    ):
        assert part in text
    assert "no method" in methods_paragraphs([make_failed()])[0]


def test_methods_say_what_is_claimed_and_by_which_tests() -> None:
    text = methods_paragraphs(make_sweep(), Margins(max_drop_pt=0.5, confidence=0.9))[-1]
    assert "at most 0.5 points are lost" in text
    assert "Tango's score test" in text
    assert "with a probability of at most 10%" in text
    assert {"tango1998", "holm1979", "shaffer1980directional"} <= set(keys_in([text]))
    assert "Claims:" not in " ".join(methods_paragraphs(make_sweep()))
