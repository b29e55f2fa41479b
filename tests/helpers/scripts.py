"""Short lists in scripts whose characters have several code points."""

from __future__ import annotations

from unicodedata import normalize

WORDS = {
    "Hindi": "किरण कृष्ण ज्योति क्षितिज विद्या प्रिया हिन्दी मुक्ता श्री जगत् सुनीता",
    "Tamil": "தமிழ் கண்ணன் மதுரை கோவை செல்வி முருகன் வேலு ஸ்ரீ",
    "Thai": "กรุงเทพ น้ำพอง ปัตตานี ลำปาง เชียงใหม่ ท่าข้าม บ้านดุง",
    "Bengali": "কৃষ্ণ ঢাকা বাংলা ওয়ারী শ্রী মান্দা চট্টগ্রাম বড়ুয়া",
    "Arabic": "مُحَمَّد عَلِيّ حَسَن فَاطِمَة خَالِد زَيْنَب",
    "Vietnamese": normalize("NFD", "Hà Nội Đà Lạt Huế Cần Thơ Mỹ Tho"),
    "Hangul": normalize("NFD", "서울 부산 대구 한국 값 닭"),
    "emoji": "👩\u200d👩\u200d👧👍🏽 🇩🇪🇫🇷 👍🏽🇩🇪 1\ufe0f\u20e3🇫🇷 👩\u200d👩\u200d👧",
}
LISTS = {name: text.split(" ") for name, text in WORDS.items()}
