"""Word lists: public facts as `subject:answer` pairs, and the vocabulary of the small talk."""


def pairs(listing: str) -> list[tuple[str, str]]:
    """`a:b` entries as (a, b); an underscore stands for a space inside a name."""
    entries = (entry.replace("_", " ").split(":") for entry in listing.split())
    return [(subject, answer) for subject, answer in entries]


def _words(listing: str) -> tuple[str, ...]:
    return tuple(listing.split())


CAPITALS = """
France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Belgium:Brussels Netherlands:Amsterdam
Denmark:Copenhagen Sweden:Stockholm Norway:Oslo Finland:Helsinki Iceland:Reykjavik Ireland:Dublin
Austria:Vienna Switzerland:Bern Poland:Warsaw Czechia:Prague Slovakia:Bratislava Hungary:Budapest
Romania:Bucharest Bulgaria:Sofia Greece:Athens Turkey:Ankara Russia:Moscow Ukraine:Kyiv Belarus:Minsk
Lithuania:Vilnius Latvia:Riga Estonia:Tallinn Moldova:Chisinau Serbia:Belgrade Croatia:Zagreb
Slovenia:Ljubljana Bosnia:Sarajevo Montenegro:Podgorica Albania:Tirana Macedonia:Skopje Kosovo:Pristina
Malta:Valletta Cyprus:Nicosia Georgia:Tbilisi Armenia:Yerevan Azerbaijan:Baku Kazakhstan:Astana
Uzbekistan:Tashkent Turkmenistan:Ashgabat Kyrgyzstan:Bishkek Tajikistan:Dushanbe Mongolia:Ulaanbaatar
China:Beijing Japan:Tokyo Taiwan:Taipei Vietnam:Hanoi Laos:Vientiane Thailand:Bangkok Cambodia:Phnom_Penh
Myanmar:Naypyidaw Malaysia:Kuala_Lumpur Indonesia:Jakarta Philippines:Manila Brunei:Bandar India:New_Delhi
Pakistan:Islamabad Bangladesh:Dhaka Nepal:Kathmandu Bhutan:Thimphu Maldives:Male Afghanistan:Kabul
Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut Jordan:Amman Yemen:Sanaa Oman:Muscat Qatar:Doha
Bahrain:Manama Kuwait:Kuwait_City Egypt:Cairo Libya:Tripoli Tunisia:Tunis Algeria:Algiers Morocco:Rabat
Mauritania:Nouakchott Mali:Bamako Niger:Niamey Chad:Ndjamena Sudan:Khartoum Ethiopia:Addis_Ababa
Eritrea:Asmara Somalia:Mogadishu Djibouti:Djibouti_City Kenya:Nairobi Uganda:Kampala Rwanda:Kigali
Burundi:Gitega Tanzania:Dodoma Zambia:Lusaka Zimbabwe:Harare Malawi:Lilongwe Mozambique:Maputo
Botswana:Gaborone Namibia:Windhoek Angola:Luanda Gabon:Libreville Cameroon:Yaounde Nigeria:Abuja Ghana:Accra
Togo:Lome Benin:Porto_Novo Senegal:Dakar Gambia:Banjul Guinea:Conakry Liberia:Monrovia
Madagascar:Antananarivo Mauritius:Port_Louis Seychelles:Victoria Canada:Ottawa Mexico:Mexico_City
Cuba:Havana Jamaica:Kingston Haiti:Port_au_Prince Bahamas:Nassau Barbados:Bridgetown
Guatemala:Guatemala_City Honduras:Tegucigalpa Nicaragua:Managua Panama:Panama_City Colombia:Bogota
Venezuela:Caracas Ecuador:Quito Peru:Lima Bolivia:Sucre Brazil:Brasilia Paraguay:Asuncion Uruguay:Montevideo
Argentina:Buenos_Aires Chile:Santiago Guyana:Georgetown Suriname:Paramaribo Australia:Canberra Fiji:Suva
Samoa:Apia Tonga:Nukualofa Vanuatu:Port_Vila Palau:Ngerulmud
"""

OTHER_CITIES = _words("""
Lyon Marseille Munich Hamburg Milan Naples Barcelona Seville Porto Antwerp Rotterdam Aarhus Gothenburg
Bergen Salzburg Zurich Geneva Krakow Brno Istanbul Kharkiv Shanghai Osaka Kyoto Mumbai Karachi Lahore Sydney
Melbourne Toronto Montreal Vancouver Casablanca Lagos Johannesburg Medellin Guayaquil Cusco Chicago Boston
Dallas Houston Seattle
""")

SYMBOLS = """
hydrogen:H helium:He lithium:Li beryllium:Be boron:B carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne
sodium:Na magnesium:Mg aluminium:Al silicon:Si phosphorus:P sulfur:S chlorine:Cl argon:Ar potassium:K
calcium:Ca scandium:Sc titanium:Ti vanadium:V chromium:Cr manganese:Mn iron:Fe cobalt:Co nickel:Ni copper:Cu
zinc:Zn gallium:Ga germanium:Ge arsenic:As selenium:Se bromine:Br krypton:Kr rubidium:Rb strontium:Sr
yttrium:Y zirconium:Zr niobium:Nb molybdenum:Mo technetium:Tc ruthenium:Ru rhodium:Rh palladium:Pd silver:Ag
cadmium:Cd indium:In tin:Sn antimony:Sb tellurium:Te iodine:I xenon:Xe caesium:Cs barium:Ba lanthanum:La
cerium:Ce neodymium:Nd samarium:Sm europium:Eu gadolinium:Gd terbium:Tb holmium:Ho erbium:Er thulium:Tm
ytterbium:Yb lutetium:Lu hafnium:Hf tantalum:Ta tungsten:W rhenium:Re osmium:Os iridium:Ir platinum:Pt
gold:Au mercury:Hg thallium:Tl lead:Pb bismuth:Bi polonium:Po radon:Rn radium:Ra thorium:Th uranium:U
plutonium:Pu
"""

OPPOSITES = """
hot:cold big:small tall:short fast:slow old:young happy:sad rich:poor hard:soft wet:dry full:empty
open:closed clean:dirty light:dark early:late strong:weak loud:quiet thick:thin wide:narrow deep:shallow
sharp:blunt brave:cowardly cheap:expensive easy:difficult smooth:rough sweet:bitter true:false up:down
left:right inside:outside above:below before:after always:never begin:end buy:sell push:pull win:lose
love:hate give:take arrive:depart ascend:descend accept:refuse attack:defend borrow:lend build:destroy
laugh:cry remember:forget day:night summer:winter north:south east:west peace:war friend:enemy king:queen
success:failure victory:defeat profit:loss question:answer heaven:hell sunrise:sunset ancient:modern
generous:selfish polite:rude humble:proud guilty:innocent visible:hidden public:private simple:complex
solid:liquid rare:common temporary:permanent domestic:foreign
long:brief heavy:weightless rough:gentle empty_handed:laden asleep:awake alive:dead ugly:beautiful lazy:diligent
calm:nervous careful:careless cruel:kind curved:straight dangerous:safe different:identical dull:interesting
equal:unequal familiar:strange fat:thin fertile:barren flexible:rigid fresh:stale future:past giant:tiny
hopeful:desperate horizontal:vertical idle:busy inner:outer junior:senior legal:illegal loose:tight major:minor
maximum:minimum mature:childish near:far natural:artificial optimist:pessimist ordinary:special positive:negative
raw:cooked regular:irregular sober:drunk sour:sugary stormy:windless stupid:clever sunny:cloudy tame:wild
urban:rural useful:useless vacant:occupied wise:foolish import:export increase:decrease lock:unlock
"""

PAST_TENSES = """
go:went see:saw take:took give:gave come:came eat:ate drink:drank write:wrote speak:spoke break:broke
choose:chose drive:drove fall:fell fly:flew freeze:froze grow:grew hide:hid know:knew ride:rode ring:rang
rise:rose sing:sang sink:sank sit:sat sleep:slept spend:spent stand:stood steal:stole swim:swam swing:swung
teach:taught tear:tore tell:told think:thought throw:threw wake:woke wear:wore bring:brought build:built
catch:caught deal:dealt dig:dug draw:drew feed:fed feel:felt fight:fought find:found forgive:forgave
get:got hang:hung hear:heard hold:held keep:kept kneel:knelt lead:led leave:left lend:lent light:lit
make:made mean:meant meet:met pay:paid run:ran say:said seek:sought send:sent shake:shook shine:shone
shoot:shot shrink:shrank slide:slid spin:spun spring:sprang stick:stuck sting:stung strike:struck swear:swore
sweep:swept weep:wept weave:wove bite:bit blow:blew bend:bent bind:bound begin:began become:became
creep:crept cling:clung flee:fled forget:forgot grind:ground lay:laid mistake:mistook overcome:overcame
understand:understood undo:undid win:won withdraw:withdrew wind:wound
"""

ANIMALS = _words("""
cat dog horse rabbit parrot goat hamster turtle snake duck sheep donkey goose pig mouse pony canary ferret lizard
chicken frog owl
""")

JOBS = _words("""
baker painter doctor lawyer farmer pilot nurse teacher singer plumber butcher carpenter dentist engineer
gardener jeweller librarian musician sailor tailor waiter writer chemist judge miner florist hunter banker
actor chef porter weaver tanner cobbler printer sculptor dancer clerk
""")

FIRST_NAMES = _words("""
Anna Ben Clara David Emma Felix Grace Henry Irene Jack Kate Leo Maria Nora Oscar Paula Robert Sarah Tom Vera
Adam Bella Carl Diana Eric Fiona George Helen Ivan Julia Kevin Laura Mark Nina Otto Peter Rosa Simon Tina
Paul Alice Bruno Carla Daniel Elena Frank Greta Hugo Ida Jonas
""")

PET_NAMES = _words("""
Milo Luna Rex Bella Max Coco Rocky Daisy Simba Ginger Oreo Buddy Ruby Shadow Pepper Lucky Misty Toby Zoe
Biscuit
""")

OBJECTS = _words("""
apple book lamp chair bottle flower letter basket candle mirror ticket blanket hammer pencil umbrella box
cup door ball hat coat car bag clock table
""")

COLOURS = _words("""
red blue green yellow black white brown purple orange grey pink silver
""")

PLACES = _words("""
market garden kitchen station school river forest library harbour museum bridge castle
""")
