"""The glossary: one source for the report and for docs/glossary.md."""

from pathlib import Path

from fl_sim.report import glossary

PAGE = Path(__file__).parents[3] / "docs" / "glossary.md"


def test_the_page_of_the_documentation_is_up_to_date():
    assert PAGE.read_text("utf-8") == glossary.render_markdown(), "run `make report`"


def test_the_terms_are_sorted_and_have_one_definition_each():
    names = [glossary.get_term(key).casefold() for key in glossary.TERMS]
    assert names == sorted(set(names))


def test_definitions_are_sentences_and_link_to_pages_that_exist():
    for key, text in glossary.TERMS.items():
        assert text.endswith("."), key
        links = [part.split(")")[0] for part in text.split("](")[1:]]
        assert all((PAGE.parent / link.partition("#")[0]).exists() for link in links), key


def test_the_report_shows_plain_text():
    terms = glossary.select_report_terms()
    assert len(terms) == 30
    assert not any(mark in text for _, text in terms for mark in ("`", "]("))
