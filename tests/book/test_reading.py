"""Answers in the words that models use, each with what a physician would take it for.

The tables were written before the parser. 'unparsed': a sensible reader could not say which.
"""

import pytest

from memoir_book import reading
from memoir_core.vqa import QUESTIONS

DIAGNOSES = {
    # the label, or a usual name
    "CN": "CN",
    "MCI": "MCI",
    "dementia.": "Dementia",
    "**MCI**": "MCI",
    "_MCI_": "MCI",
    " mild cognitive impairment (MCI).": "MCI",
    "Cognitively Normal (CN)": "CN",
    "normal cognition": "CN",
    "cognitively unimpaired": "CN",
    "Cognitively intact.": "CN",
    "Healthy control": "CN",
    "NC": "CN",
    "HC": "CN",
    "Normal control (NC)": "CN",
    "Normal": "CN",
    "No cognitive impairment": "CN",
    "The person is not cognitively impaired.": "CN",
    "AD": "Dementia",
    "Alzheimer's disease": "Dementia",
    "Alzheimer’s disease": "Dementia",
    "Alzheimerʼs": "Dementia",
    "Alzheimer disease": "Dementia",
    "Alzheimers": "Dementia",
    "Probable AD": "Dementia",
    "AD dementia": "Dementia",
    "Dementia due to Alzheimer's disease": "Dementia",
    "dementia of the Alzheimer type": "Dementia",
    "Mild Alzheimer's dementia.": "Dementia",
    "The patient is demented.": "Dementia",
    "Major neurocognitive disorder": "Dementia",
    "Mild neurocognitive disorder": "MCI",
    "Amnestic MCI": "MCI",
    "aMCI": "MCI",
    "late mild cognitive impairment (LMCI)": "MCI",
    "ＭＣＩ": "MCI",
    "mild\u00a0cognitive\u00a0impairment": "MCI",
    "Mild cognitive\u2011impairment": "MCI",
    # the longest name wins
    "MCI due to Alzheimer's disease": "MCI",
    "MCI due to AD": "MCI",
    "Mild cognitive impairment (MCI) due to Alzheimer’s disease": "MCI",
    "MCI, likely due to AD": "MCI",
    "prodromal Alzheimer's disease": "MCI",
    "preclinical Alzheimer's disease": "CN",
    # negation
    "No dementia": "unparsed",
    "not demented": "unparsed",
    "The patient does not have dementia.": "unparsed",
    "This rules out Alzheimer's": "unparsed",
    "Dementia is unlikely": "unparsed",
    "Not MCI": "unparsed",
    "non-CN": "unparsed",
    "MCI, not dementia": "MCI",
    "MCI without dementia": "MCI",
    "CN; no evidence of dementia": "CN",
    "No dementia; this is MCI.": "MCI",
    "The subject isn’t demented but has mild cognitive impairment.": "MCI",
    "Not cognitively normal: dementia.": "Dementia",
    "Cognitively normal, which rules out Alzheimer's disease.": "CN",
    "MCI rather than dementia": "MCI",
    "MCI that has not yet progressed to dementia": "MCI",
    "MCI. Dementia can be excluded.": "MCI",
    "Neither MCI nor dementia.": "CN",
    "He does not meet the criteria for MCI or dementia.": "CN",
    "MCI is more likely than dementia.": "MCI",
    # a sentence, an object, a box
    "The answer is: dementia!": "Dementia",
    "The most likely diagnosis is mild cognitive impairment.": "MCI",
    "Based on the provided information, which includes the cognitive test scores, the APOE "
    "genotype and the imaging findings, the most likely diagnosis is MCI.": "MCI",
    '{"diagnosis": "MCI"}': "MCI",
    "\\boxed{Dementia}": "Dementia",
    "This is consistent with cognitively normal ageing.": "CN",
    "Likely MCI with a high risk of dementia": "MCI",
    "She is cognitively normal, with a family history of Alzheimer's disease.": "CN",
    "A man with no APOE e4 allele and MCI": "MCI",
    # the reasons first, or after
    "An MMSE of 29 is normal. The ADAS-13 fits dementia. Final answer: MCI": "MCI",
    "Case 3 was CN. Case 5 had dementia. This record lies between them, so it is MCI.": "MCI",
    "Let me think. Case 3 was CN.\n\n**Answer:** Dementia\n": "Dementia",
    "MCI. The MMSE is slightly low, but function is kept, so there is no dementia.": "MCI",
    "Dementia. The scores are far below those of cognitively normal people.": "Dementia",
    "MCI\n\nExplanation: case 12 had dementia with an MMSE of 20.": "MCI",
    "The diagnosis is Dementia because an MMSE of 18 is below that of CN controls.": "Dementia",
    "Of the five similar cases 3 are CN and 2 MCI, I'd say MCI.": "MCI",
    "Considering the similar cases (3 MCI, 2 Dementia), I would say MCI.": "MCI",
    "**Diagnosis:** MCI\n\n**Reasoning:**\n* Similar cases (CN) score higher.": "MCI",
    "I would call this MCI. A new visit in a year is advised.": "MCI",
    "Answer: CN\n\nCase 9: A man; MMSE 20.\nAnswer: Dementia": "CN",
    # thoughts are no answer
    "<unused94>thought\nThe scores are low, not yet dementia; CN is excluded.<unused95>MCI": "MCI",
    "<unused94>thought\n1. The MMSE of 20 fits dementia, so the answer would be": "unparsed",
    "<|channel>thought\n<channel|>Dementia": "Dementia",
    "thought\n\nCN": "CN",
    "<think>Dementia or MCI? The answer is CN?</think>\n\nMCI": "MCI",
    "Dementia or MCI?\n</think>\n\nCN": "CN",
    # hedged, contradictory, empty
    "CN or MCI": "unparsed",
    "CN, MCI or Dementia": "unparsed",
    "MCI/AD": "unparsed",
    "MCI vs. dementia": "unparsed",
    "It could be either MCI or dementia.": "unparsed",
    "Between MCI and dementia": "unparsed",
    "Answer: CN or MCI": "unparsed",
    "It is unclear whether this is MCI.": "unparsed",
    "It is hard to say, but the most likely diagnosis is MCI.": "MCI",
    "The diagnosis cannot be determined from this record.": "unparsed",
    "cognitive impairment": "unparsed",
    "CNS disease": "unparsed",
    "an ad hoc assessment": "unparsed",
    "no idea": "unparsed",
    "": "unparsed",
}
OTHERS = {
    "sex": {
        "A woman.": "woman",
        "Female": "woman",
        "The subject is a 71-year-old lady": "woman",
        "She is 71 years old.": "woman",
        "M": "man",
        "male": "man",
        "His scores are low.": "man",
        "A woman, whose husband says that he worries.": "woman",
        "not a woman": "man",
        "man or woman": "unparsed",
        "a human being": "unparsed",
    },
    "age": {
        "60 to 69": "60 to 69",
        "70–79": "70 to 79",
        "between 70 and 79": "70 to 79",
        "in her seventies": "70 to 79",
        "She is in her mid-70s.": "70 to 79",
        "75 years": "70 to 79",
        "The man is seventy-five years old.": "70 to 79",
        "under 60": "under 60",
        "younger than sixty": "under 60",
        "57-year-old": "under 60",
        "over 80": "80 or older",
        "80+": "80 or older",
        "eighty-two": "80 or older",
        "in his nineties": "80 or older",
        "60 to 79": "unparsed",
        "old": "unparsed",
        "over 60": "unparsed",
    },
    "severity": {
        "mild": "mild impairment",
        "No impairment.": "no impairment",
        "none": "no impairment",
        "not impaired": "no impairment",
        "very mild": "questionable impairment",
        "Questionable impairment (CDR 0.5)": "questionable impairment",
        "moderately impaired": "moderate impairment",
        "The impairment is severe.": "severe impairment",
        "not severe, but moderate": "moderate impairment",
        "moderate to severe": "unparsed",
        "no severe impairment": "unparsed",
        "impaired": "unparsed",
    },
    "score": {
        "MMSE": "MMSE",
        "the ADAS-Cog 13": "ADAS-13",
        "ADAS13, with 31 points": "ADAS-13",
        "Montreal Cognitive Assessment": "MoCA",
        "The Mini‑Mental State Examination (MMSE) is the most abnormal.": "MMSE",
        "ADAS-11 is more abnormal than the MMSE.": "ADAS-11",
        "MoCA and MMSE": "unparsed",
        "ADAS": "unparsed",
    },
}


@pytest.mark.parametrize(("text", "meant"), DIAGNOSES.items())
def test_a_diagnosis_is_read_as_a_physician_would(text, meant):
    assert reading.read_answer(text, "diagnosis", QUESTIONS["diagnosis"][1])["parsed"] == meant


OTHER_ROWS = [(kind, *row) for kind, rows in OTHERS.items() for row in rows.items()]


@pytest.mark.parametrize(("kind", "text", "meant"), OTHER_ROWS)
def test_other_kinds_are_read_as_a_physician_would(kind, text, meant):
    assert reading.read_answer(text, kind, QUESTIONS[kind][1])["parsed"] == meant


def test_the_tables_are_large_and_hold_every_option():
    assert len(DIAGNOSES) >= 60 and len(OTHER_ROWS) >= 30
    assert set(DIAGNOSES.values()) == {*QUESTIONS["diagnosis"][1], "unparsed"}
    for kind, rows in OTHERS.items():
        assert {*rows.values()} <= {*QUESTIONS[kind][1], "unparsed"}


@pytest.mark.parametrize("kind", [kind for kind, (_, options) in QUESTIONS.items() if options])
def test_every_option_is_read_back_alone_and_in_a_sentence(kind):
    options = QUESTIONS[kind][1]
    for option in options:
        for frame in ("{}", "{}.", "Answer: {}", "The answer is {}.", "**{}**"):
            for text in (option, option.lower(), option.upper()):
                said = frame.format(text)
                assert reading.read_answer(said, kind, options)["parsed"] == option, said


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("MCI", "MCI"),
        ("\n mci.\nmore", "MCI"),
        ("The diagnosis is MCI", "unparsed"),
        ("mild cognitive impairment", "unparsed"),
        ("<unused94>thought\nLow scores.<unused95>MCI", "unparsed"),
        ("thought\n\nMCI", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_a_naive_script_wants_the_label_on_the_first_line(text, strict):
    assert reading.parse_strict(text, QUESTIONS["diagnosis"][1]) == strict


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<unused94>thought\nlong\nthought<unused95>MCI<end_of_turn>", "MCI"),
        ("<|channel>thought\n<channel|>MCI<turn|>", "MCI"),
        ("<think>\n\n</think>\n\nMCI", "MCI"),
        ("long</think>MCI", "MCI"),
        ("<think>never ends", ""),
        ("thought\nMCI", "MCI"),
        ("MCI, a thought", "MCI, a thought"),
    ],
)
def test_thoughts_are_stripped(text, left):
    assert reading.strip_thought(text) == left


def test_an_answer_is_read_in_both_ways_and_the_reason_is_said():
    options = QUESTIONS["diagnosis"][1]
    said = {
        "MCI": ("MCI", "MCI", ""),
        "It is MCI.": ("unparsed", "MCI", ""),
        "CN or MCI": ("unparsed", "unparsed", "several named"),
        "No dementia": ("unparsed", "unparsed", "only denied"),
        "no idea": ("unparsed", "unparsed", "none named"),
        "<think>It is MCI": ("unparsed", "unparsed", "no answer after the thought"),
    }
    for text, (strict, parsed, why) in said.items():
        read = reading.read_answer(text, "diagnosis", options)
        assert read == {"strict": strict, "parsed": parsed, "unparsed_because": why}, text
    assert reading.read_answer("MCI, because", "why", ()) == {
        "strict": "", "parsed": "", "unparsed_because": ""
    }  # fmt: skip
