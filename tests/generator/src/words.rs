//! Names, answers and remarks in the languages of the field.

/// Names of people: several scripts, right-to-left text, combining marks, characters that XML escapes, emoji with joiners.
pub(crate) const NAMES: &[&str] = &[
    "Asha Kumari",
    "सीता देवी",
    "राम प्रसाद यादव",
    "አበበ በቀለ",
    "ትዕግስት ገብረማርያም",
    "فاطمة الزهراء",
    "عبد الله بن محمد",
    "מרים כהן",
    "Zoe\u{301} Nguye\u{302}\u{303}n",
    "Trần Thị Bích Ngọc",
    "Mina 👩🏽\u{200d}⚕\u{fe0f} Rai",
    "O'Brien & Daughters <north>",
    "\u{200f}نور\u{200e} (Noor)",
    "বেগম রোকেয়া",
    "ராஜேஸ்வரி",
    "王秀英",
    "Ñandú Çelik",
    "Aïssatou Diallo",
    "\"Baby\" of Meera",
    " Spaced  Name ",
];

/// Remarks of some length.
pub(crate) const REMARKS: &[&str] = &[
    "Mother and child are well; next visit in two weeks.",
    "बच्चे का वज़न कम है, पोषण केंद्र भेजा गया। अगली मुलाकात सोमवार को।",
    "ልጁ ክትባት ተሰጥቶታል፤ እናትየዋ ምክር ተሰጥቷታል።",
    "تمت زيارة الأسرة وتقديم المشورة، والأم بصحة جيدة.",
    "fever < 38 & no cough; \"watch\" until tomorrow's call",
    "line one\nline two\n\tindented third",
    "🏥 referred ➡️ clinic 🚑, called back ☎️ twice",
    "e\u{301}tat ge\u{301}ne\u{301}ral satisfaisant; a\u{300} revoir",
    "  leading and trailing blanks  ",
    "No one at home.",
    "00123",
    "1.50",
];

/// Names of villages.
pub(crate) const VILLAGES: &[&str] = &[
    "north",
    "Rampur",
    "रामपुर",
    "ባሕር ዳር",
    "الخرطوم",
    "São João",
    "Qyzylorda",
    "Ngũgĩ's corner",
];

/// Names of questions that are answered with a word or a number.
pub(crate) const QUESTIONS: &[&str] = &[
    "weight",
    "height",
    "muac",
    "temperature",
    "breastfed",
    "vaccinated",
    "fever_days",
    "cough_days",
    "water_source",
    "latrine",
    "bednets",
    "meals_per_day",
    "danger_signs",
    "next_step",
    "counselled_on",
    "medicine_given",
    "dose",
    "follow_up_days",
    "phone_number",
    "consent",
    "blood_pressure",
    "haemoglobin",
    "ደረጃ",
    "स्थिति",
];

/// Short answers.
pub(crate) const ANSWERS: &[&str] = &[
    "yes",
    "no",
    "",
    "1",
    "007",
    "11.5",
    "well hand_pump",
    "हाँ",
    "አዎ",
    "نعم",
    "not sure",
    "36.6",
    "a b c",
    "✓",
];
